"""What cannot work ends in one clear message, a failed run and nothing half-made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.release import main as release
from tests.pipelines.conftest import RECIPE, Command, Result

pytestmark = pytest.mark.real


@pytest.fixture
def refuse(call, command: Command, servers, tiny_model, recipe) -> Callable[..., Result]:
    """Releases the tiny model with other options, and sees that nothing comes of it but one clear message."""

    def check(says: str, *, code: int = 2, done: tuple[str, ...] = (), **options: object) -> Result:
        given = {"source": tiny_model, "name": "bad", "recipe": recipe, **options}
        result = call(release, *(str(w) for k, v in given.items() for w in (f"--{k}", v)))
        assert result.returncode == code, result.stderr
        assert says in result.stderr
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr + result.stdout
        assert {run["status"] for run in command.runs()} == {"FAILED"} | (
            {"FINISHED"} if done else set()
        )
        assert says in command.runs()[-1]["shipway.error"]
        assert {name.partition("-")[0] for name in command.work()} == set(done)
        assert "bad" not in servers.registry.models()
        return result

    return check


def spoil_pickle(folder: Path) -> None:
    torch.save({"w": torch.zeros(1)}, folder / "pytorch_model.bin")


def spoil_only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    spoil_pickle(folder)


def spoil_code(folder: Path) -> None:
    (folder / "modeling_mine.py").write_text("raise SystemExit('I was run')")


def spoil_auto_map(folder: Path) -> None:
    file = folder / "config.json"
    mapped = {"AutoModelForCausalLM": "somebody/else--modeling.Model"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": mapped}))


def spoil_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def spoil_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def spoil_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_all, "There is no model at"),
        (spoil_pickle, "holds pickle files (pytorch_model.bin)"),
        (spoil_only_pickle, "holds pickle files (pytorch_model.bin)"),
        (spoil_code, "brings code of its own (modeling_mine.py), which is never run"),
        (spoil_auto_map, "asks for code of its own (auto_map), which is never run"),
        (spoil_template, "has no chat template"),
        (spoil_weights, "is cut short or not a safetensors file"),
    ],
)
def test_a_source_that_cannot_be_let_in_is_refused(refuse, tiny_copy, spoil, says) -> None:
    folder = tiny_copy("spoilt")
    spoil(folder)
    result = refuse(says, source=folder)
    assert str(folder) in result.stderr


@pytest.mark.parametrize(
    ("text", "says", "done"),
    [
        (
            RECIPE.replace("32", "128"),
            "group_size 128 does not divide the input width 64",
            ("download",),
        ),
        (RECIPE.replace("bits", "bit"), "gptq.bit: Extra inputs are not permitted", ()),
        (RECIPE.replace("gptq", "gtpq"), "found using 'method' does not match any", ()),
        (RECIPE.replace("samples: 4", "samples: 1024"), "calibration texts hold", ("download",)),
        ("{", "is not YAML", ()),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(refuse, tmp_path, text, says, done) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text.replace("sequence_length: 64", "sequence_length: 512"))
    refuse(says, recipe=file, done=done)


@pytest.mark.parametrize(
    ("option", "value", "code", "says"),
    [
        ("digest", "sha256:" + "0" * 64, 1, "was asked for"),
        ("digest", "12345", 1, "is not a digest"),
        ("source", "hub://org/name", 2, "does not say which revision"),
        ("source", "s3://shipway/nothing/here", 2, "There are no files at"),
        ("source", "models:/nobody/1", 2, "MLflow does not have"),
        ("source", "models:/nobody@champion", 2, "MLflow does not have"),
        ("source", "package://no_such_package/model.gguf", 2, "no installed Python package"),
        ("source", "ftp://server/model", 2, "names no model source"),
        ("name", "a/b", 2, "cannot name a registered model"),
        ("recipe", "no-such.yaml", 2, "The recipe no-such.yaml cannot be read"),
        ("data", "no-such-folder", 2, "The data folder no-such-folder has no calibration.jsonl"),
    ],
)
def test_an_option_that_cannot_work_is_refused(refuse, option, value, code, says) -> None:
    refuse(says, code=code, **{option: value})


def test_a_wrong_use_is_told_by_the_command_line_itself(call) -> None:
    result = call(release, "--nmae", "chat")
    assert result.returncode == 2
    assert "No such option" in result.stderr


def test_a_gguf_file_that_is_cut_short_is_refused(refuse, tmp_path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(200))
    refuse("cannot be read as a GGUF model", source=file)


def test_a_quantized_model_is_not_quantized_again(refuse, tiny_copy) -> None:
    folder = tiny_copy("quantized")
    file = folder / "config.json"
    method = {"quant_method": "gptq", "bits": 4}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": method}))
    refuse("is quantized already", source=folder, done=("download",))
