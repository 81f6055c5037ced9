"""A release to a budget, on real libraries and servers: a table, a picture, and the smallest that is good enough."""

import csv
import io

import pytest

from pipelines.quantize import search
from pipelines.release import main as release
from registry.errors import SourceInvalid, StageFailed
from tests.pipelines.conftest import RECIPE

pytestmark = pytest.mark.real


@pytest.fixture
def recipes(tmp_path) -> str:
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, text in {
        "none": "method: none",
        "int8": "method: int8",
        "nf4": "method: nf4",
        "odd": RECIPE.replace("group_size: 32", "group_size: 256"),
    }.items():
        (folder / f"{name}.yaml").write_text(text)
    return str(folder)


def artifact(servers, run_id: str, name: str, tmp_path) -> bytes:
    path = servers.client.download_artifacts(run_id, name, str(tmp_path))
    with open(path, "rb") as file:  # noqa: PTH123 - a path as text
        return file.read()


def test_the_smallest_within_the_budget_becomes_the_version_and_the_run_shows_all(
    call, command, servers, tiny_model, recipes, tmp_path
) -> None:
    given = ("--source", str(tiny_model), "--name", "frugal", "--recipe", recipes)
    result = call(release, *given, "--max-quality-loss", "0.05")
    assert result.returncode == 0, result.stderr
    version = servers.registry.version("frugal", "1")
    table = artifact(servers, version.run_id, "budget.csv", tmp_path).decode()
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(table))}
    assert rows.keys() == {"none", "int8", "nf4", "odd"}
    assert "does not divide" in rows["odd"]["verdict"]
    fitting = [
        row for row in rows.values() if row["loss_upper"] and float(row["loss_upper"]) <= 0.05
    ]
    [kept] = [row for row in rows.values() if row["verdict"] == "kept"]
    assert kept == min(fitting, key=lambda row: int(row["size_bytes"]))
    assert version.tags["shipway.size_bytes"] == kept["size_bytes"]
    assert f'"method":"{kept["name"]}"' in version.tags["shipway.recipe"]
    assert "transformers" in version.tags["shipway.engines"].split(",")
    told = servers.client.get_run(version.run_id).data
    assert told.params["recipe.method"] == kept["name"]
    assert not [name for name in told.metrics if name.startswith(("quantize/", "evaluate/"))]
    assert artifact(servers, version.run_id, "budget.png", tmp_path).startswith(b"\x89PNG")

    refused = call(release, *given[:2], "--name", "starved", *given[4:], "--max-bytes", "10")
    assert refused.returncode == 1
    assert "No recipe stays within the budget of 2.0% loss and 10 bytes" in refused.stderr
    assert "nf4" in refused.stderr
    assert "starved" not in servers.registry.models()


def test_a_candidate_that_fails_is_a_row_with_its_reason_and_the_others_are_tried(
    call, servers, tiny_model, recipes, tmp_path, monkeypatch
) -> None:
    made = search.quantize
    fails = {"nf4": StageFailed("the library gave up"), "int8": SourceInvalid("the result is NaN")}

    def quantize(session, *, model, recipe, data):
        if recipe.method in fails:
            raise fails[recipe.method]
        return made(session, model=model, recipe=recipe, data=data)

    monkeypatch.setattr(search, "quantize", quantize)
    given = ("--source", str(tiny_model), "--name", "stubborn", "--recipe", recipes)
    result = call(release, *given)
    assert result.returncode == 0, result.stderr
    version = servers.registry.version("stubborn", "1")
    table = artifact(servers, version.run_id, "budget.csv", tmp_path).decode()
    verdicts = {row["name"]: row["verdict"] for row in csv.DictReader(io.StringIO(table))}
    assert verdicts.pop("odd").startswith("not tried: ")
    assert verdicts == {
        "nf4": "failed: the library gave up",
        "int8": "failed: the result is NaN",
        "none": "kept",
    }


def test_a_recipe_that_the_engine_cannot_serve_is_refused_before_anything_is_fetched(
    call, command, tiny_model, tmp_path
) -> None:
    recipe = tmp_path / "nf4.yaml"
    recipe.write_text("method: nf4")
    given = ("--source", str(tiny_model), "--name", "no", "--recipe", str(recipe))
    result = call(release, *given, "--engine", "vllm")
    assert result.returncode == 2
    assert "which vllm cannot serve: transformers can" in result.stderr
    assert command.work() == []
