"""Each method on a real model: the same bytes twice, loadable by transformers, and nothing of this machine in it."""

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.loading import load_model, load_tokenizer
from pipelines.quantize.__main__ import main as quantize
from registry.digests import describe_folder
from tests.pipelines.conftest import RECIPE

pytestmark = pytest.mark.real

RECIPES = {
    "gptq": RECIPE,
    "gptq-optimum": RECIPE.replace("gptq", "gptq-optimum"),
    "int8": "method: int8\n",
}


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What gptqmodel leaves lying about is collected while its warnings are still expected."""
    yield
    gc.collect()


@pytest.mark.filterwarnings(
    "ignore:Implicitly cleaning up <TemporaryDirectory .*gptqmodel_:ResourceWarning"
)
@pytest.mark.parametrize("method", RECIPES)
def test_a_method_gives_the_same_bytes_twice_and_they_load(
    call, command, tiny_model, tmp_path, method
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPES[method])
    made: list[Path] = []
    for number in range(2):
        arguments = ("--model", str(tiny_model), "--recipe", str(recipe), "--fresh", "true")
        result = call(quantize, *arguments)
        assert result.returncode == 0, result.stderr
        folder = Path(result.stdout.splitlines()[-1].split()[1])
        made.append(Path(shutil.copytree(folder, tmp_path / str(number))))
    assert describe_folder(made[0]) == describe_folder(made[1])
    check_nothing_leaks(made[0], command.home)
    check_it_loads(made[0], tiny_model)


def check_nothing_leaks(folder: Path, home: Path) -> None:
    calibration = (home / "data" / "calibration.jsonl").read_text().splitlines()
    text = json.loads(calibration[0])["text"][100:140]
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not [secret for secret in (str(home), "/tmp/", text) if secret.encode() in content]


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
    assert torch.nn.functional.cosine_similarity(logits.flatten(), expected.flatten(), dim=0) > 0.7
