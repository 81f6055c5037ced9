"""Each method on a real model: the same bytes twice, loadable by transformers, and nothing of this machine in it."""

import gc
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.loading import load_model, load_tokenizer
from pipelines.quantize.__main__ import main as quantize
from pipelines.quantize.served_by import format_facts
from registry.digests import describe_folder
from tests.pipelines.conftest import RECIPE

pytestmark = pytest.mark.real

RECIPES = {
    "gptq": RECIPE,
    "gptq_v2": f"{RECIPE}checkpoint_format: gptq_v2\n",
    "gptq-optimum": RECIPE.replace("gptq", "gptq-optimum"),
    "int8": "method: int8\n",
    "nf4": "method: nf4\n",
}
DATE = re.compile(rb"20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d")


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What gptqmodel leaves lying about is collected while its warnings are still expected."""
    yield
    gc.collect()


@pytest.mark.filterwarnings(
    "ignore:Implicitly cleaning up <TemporaryDirectory .*gptqmodel_:ResourceWarning"
)
@pytest.mark.parametrize("method", RECIPES)
def test_a_method_gives_the_same_bytes_in_another_process_and_they_load(
    call, command, tiny_model, tmp_path, method
) -> None:
    recipe, elsewhere = tmp_path / "recipe.yaml", tmp_path / "elsewhere"
    recipe.write_text(RECIPES[method])
    (elsewhere / "tmp").mkdir(parents=True)
    arguments = ("--model", str(tiny_model), "--recipe", str(recipe))
    other = {"SHIPWAY_HOME": str(elsewhere), "TMPDIR": str(elsewhere / "tmp"), "USER": "somebody"}
    made: list[Path] = []
    for result in (
        call(quantize, *arguments),
        command.run("pipelines.quantize", *arguments, PYTHONHASHSEED="7", **other),
    ):
        assert result.returncode == 0, result.stderr
        made.append(Path(result.stdout.splitlines()[-1].split()[1]))
    assert made[0] != made[1]
    assert describe_folder(made[0]) == describe_folder(made[1])
    check_nothing_leaks(made[0], tmp_path, (command.home / "data" / "calibration.jsonl"))
    check_it_loads(made[0], tiny_model)
    said = format_facts(json.loads((made[0] / "config.json").read_text()))
    assert command.runs()[0].items() >= said.items()


def check_nothing_leaks(folder: Path, tmp_path: Path, calibration: Path) -> None:
    """No path of the work, no date and no piece of any calibration text, in no file and no header."""
    texts = [json.loads(line)["text"] for line in calibration.read_text().splitlines()]
    pieces = [text[at : at + 40] for text in texts for at in range(0, len(text) - 40, 200)]
    secrets = [str(tmp_path), str(Path.cwd()), "/tmp/", *pieces]
    told = {s for s in secrets if s} | {json.dumps(s)[1:-1] for s in secrets}
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not [secret for secret in told if secret.encode() in content], file.name
        if file.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", content[:8])
            content = content[8 : 8 + length]
        if file.name != "tokenizer.json":
            assert not DATE.search(content), file.name


def check_it_loads(folder: Path, base: Path) -> None:
    """It answers nearly what its base answers, and its tokenizer is the base's."""
    ids = load_tokenizer(folder)("the quick brown fox", return_tensors="pt")["input_ids"]
    assert torch.equal(
        ids, load_tokenizer(base)("the quick brown fox", return_tensors="pt")["input_ids"]
    )
    assert "quantization_config" in json.loads((folder / "config.json").read_text())
    with torch.inference_mode():
        expected = load_model(base, dtype=torch.float32)(input_ids=ids).logits
        logits = load_model(folder, dtype=torch.float32, device_map="cpu")(input_ids=ids).logits
    assert torch.nn.functional.cosine_similarity(logits.flatten(), expected.flatten(), dim=0) > 0.95
