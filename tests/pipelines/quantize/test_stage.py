"""The stage refuses what cannot work before hours of work, and leaves nothing half-made."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.download.__main__ import main as download
from pipelines.quantize.__main__ import main as quantize
from tests.pipelines.conftest import RECIPE

pytestmark = pytest.mark.real


def spoil_a_number(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("text", [RECIPE, "method: int8", "method: nf4"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_a_number, "model.layers.1.mlp.up_proj.weight in model.safetensors"),
        (cut_short, "is cut short or not a safetensors file"),
    ],
)
def test_weights_that_cannot_become_a_model_are_refused(
    call, command, tiny_copy, text, spoil, says
) -> None:
    folder = tiny_copy("spoilt")
    file = folder.with_name("recipe.yaml")
    spoil(folder)
    file.write_text(text)
    result = call(quantize, "--model", str(folder), "--recipe", str(file))
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert command.work() == []


def test_other_calibration_texts_than_the_recipe_names_are_refused(
    call, command, tiny_model, tmp_path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{RECIPE}calibration: sha256:{'0' * 64}\n")
    result = call(quantize, "--model", str(tiny_model), "--recipe", str(file))
    assert result.returncode == 2
    assert "The recipe asks for calibration texts with the digest sha256:0000" in result.stderr
    assert command.work() == []


def test_a_checkpoint_in_auto_gptq_s_layout_is_downloaded_under_today_s_names(
    call, tiny_copy
) -> None:
    folder = tiny_copy("theirs")
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-32g.safetensors")
    told = {"bits": 4, "group_size": 32, "desc_act": False, "model_name_or_path": str(folder)}
    (folder / "quantize_config.json").write_text(json.dumps(told))
    result = call(download, "--source", str(folder))
    assert result.returncode == 0, result.stderr
    made = Path(result.stdout.splitlines()[-1].split()[1])
    config = json.loads((made / "config.json").read_text())
    assert config["quantization_config"]["checkpoint_format"] == "gptq"
    assert (made / "model.safetensors").is_file()
    assert str(folder) not in (made / "quantize_config.json").read_text()
