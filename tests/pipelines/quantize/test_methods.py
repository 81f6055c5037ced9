"""Each method on a real model: the same bytes twice, loadable by transformers, and nothing of this machine in it."""

import gc
import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.loading import load_model, load_tokenizer
from pipelines.quantize.__main__ import main as quantize
from pipelines.quantize.served_by import format_facts
from registry.digests import describe_folder
from tests.pipelines.conftest import RECIPE, a_command

pytestmark = pytest.mark.real

RECIPES = {
    "gptq": RECIPE,
    "gptq_v2": f"{RECIPE}checkpoint_format: gptq_v2\n",
    "gptq-optimum": RECIPE.replace("gptq", "gptq-optimum"),
    "int8": "method: int8\n",
    "nf4": "method: nf4\n",
}
ROOT = Path(__file__).parents[3]
DATE = re.compile(rb"20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d")


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What gptqmodel leaves lying about is collected while its warnings are still expected."""
    yield
    gc.collect()


EACH_RECIPE = """
import sys
from pathlib import Path
from pipelines.quantize.__main__ import main
from pipelines.session import run_entry_point

model, *recipes = sys.argv[1:]
for recipe in recipes:
    sys.argv = ["quantize", "--model", model, "--recipe", recipe]
    try:
        run_entry_point(main)
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture(scope="module")
def made_elsewhere(servers, tiny_model, tmp_path_factory) -> dict[str, Path]:
    """What each method makes in another process, for another user with other folders."""
    place = tmp_path_factory.mktemp("elsewhere")
    command = a_command(servers, place / "one")
    (place / "tmp").mkdir()
    files = {method: place / f"{method}.yaml" for method in RECIPES}
    for method, file in files.items():
        file.write_text(RECIPES[method])
    result = command.run_words(
        sys.executable, "-c", EACH_RECIPE, str(tiny_model), *map(str, files.values()),
        PYTHONHASHSEED="7", TMPDIR=str(place / "tmp"), USER="somebody", PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    folders = [Path(words[1]) for words in lines if len(words) == 3 and words[1].startswith("/")]
    return dict(zip(files, folders, strict=True))


@pytest.mark.filterwarnings(
    "ignore:Implicitly cleaning up <TemporaryDirectory .*gptqmodel_:ResourceWarning"
)
@pytest.mark.parametrize("method", RECIPES)
def test_a_method_gives_the_same_bytes_in_another_process_and_they_load(
    call, command, made_elsewhere, tiny_model, tmp_path, method
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPES[method])
    result = call(quantize, "--model", str(tiny_model), "--recipe", str(recipe))
    assert result.returncode == 0, result.stderr
    made = Path(result.stdout.splitlines()[-1].split()[1])
    assert made != made_elsewhere[method]
    assert describe_folder(made) == describe_folder(made_elsewhere[method])
    check_nothing_leaks(made, tmp_path, (command.home / "data" / "calibration.jsonl"))
    check_it_loads(made, tiny_model)
    said = format_facts(json.loads((made / "config.json").read_text()))
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
