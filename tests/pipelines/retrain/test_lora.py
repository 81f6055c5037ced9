"""Training itself, with the real peft: what is learned, written, repeated and gone on with."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.loading import load_tokenizer
from pipelines.retrain.examples import divide, parse_examples, tokenize
from pipelines.retrain.lora import Fit, fit
from pipelines.retrain.recipe import AdapterRecipe, parse_adapter
from registry.digests import describe_folder
from registry.errors import StageFailed
from tests.pipelines.retrain.conftest import ADAPTER

pytestmark = pytest.mark.real

RECIPE = parse_adapter(ADAPTER, where="here")


class KilledHereError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def parts(tiny_model, training_data):
    tokenizer = load_tokenizer(tiny_model)
    divided = divide(
        parse_examples(training_data.read_bytes(), where="it"), holdout_percent=20, seed=0
    )
    return [tokenize(tokenizer, part, length=64) for part in divided]


@pytest.fixture
def run(tiny_model, parts, tmp_path):
    def run(name: str, recipe: AdapterRecipe = RECIPE, on_step=lambda _step, _loss: None) -> Fit:
        train, holdout = parts
        return fit(
            tiny_model,
            tmp_path / name,
            train=train,
            holdout=holdout,
            recipe=recipe,
            saved=tmp_path / "saved" / "here.safetensors",
            on_step=on_step,
        )

    return run


def digest(folder: Path) -> str:
    return describe_folder(folder).digest


def test_it_learns_and_the_merged_model_has_the_bases_shape_and_type(
    run, tiny_model, tmp_path
) -> None:
    done = run("a")
    merged = load_file(tmp_path / "a" / "model" / "model.safetensors")
    base = load_file(tiny_model / "model.safetensors")
    changed = {n for n, weights in merged.items() if not torch.equal(weights, base[n])}
    assert done.holdout_after < done.holdout_before - 0.5
    assert len(done.losses) == 16
    assert {n: (w.shape, w.dtype) for n, w in merged.items()} == {
        n: (w.shape, w.dtype) for n, w in base.items()
    }
    assert {n.split(".")[-2] for n in changed} == set(RECIPE.targets)


def test_the_adapter_is_safetensors_and_says_nothing_of_this_machine(
    run, tiny_model, tmp_path
) -> None:
    run("a")
    folder = tmp_path / "a" / "adapter"
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert str(tiny_model) not in (folder / "adapter_config.json").read_text()
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4


def test_the_same_inputs_give_the_same_bytes_and_another_seed_others(run, tmp_path) -> None:
    first, second = run("a"), run("b")
    run("c", RECIPE.model_copy(update={"seed": 1}))
    assert first == second
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


@pytest.mark.parametrize("killed_at", [5, 11, 15])
def test_one_that_died_goes_on_and_ends_with_the_same_bytes(
    run, tmp_path, monkeypatch, killed_at
) -> None:
    monkeypatch.setattr("pipelines.retrain.lora._SAVE_EVERY", 4)
    whole = run("whole")

    def die(step: int, _loss: float) -> None:
        if step == killed_at:
            raise KilledHereError

    with pytest.raises(KilledHereError):
        run("died", on_step=die)
    [saved] = (tmp_path / "saved").iterdir()
    assert saved.suffix == ".safetensors"
    told: list[int] = []
    again = run("again", on_step=lambda step, _loss: told.append(step))
    assert again == whole
    assert told == list(range(16))
    assert digest(tmp_path / "whole") == digest(tmp_path / "again")
    assert list((tmp_path / "saved").iterdir()) == []


def test_a_saved_training_that_cannot_be_read_is_named(run, tmp_path) -> None:
    saved = tmp_path / "saved" / "here.safetensors"
    saved.parent.mkdir()
    saved.write_bytes(b"nonsense")
    with pytest.raises(StageFailed, match=r"here.safetensors cannot be read.*Delete it"):
        run("a")


def test_a_loss_that_is_no_number_ends_it(tiny_copy, parts, tmp_path) -> None:
    broken = tiny_copy("broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    train, holdout = parts
    with pytest.raises(StageFailed, match=r"The loss is nan at step 0 of 16\. Lower learning_rate"):
        fit(
            broken,
            tmp_path / "a",
            train=train,
            holdout=holdout,
            recipe=RECIPE,
            saved=tmp_path / "saved",
            on_step=lambda _step, _loss: None,
        )
