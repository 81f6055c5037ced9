"""The whole chain on a tiny model, real libraries and real servers: a release, then what is trained of it, twice."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.release import main as release
from pipelines.retrain.__main__ import main as retrain
from pipelines.session import OUTPUT_TAG, REUSED_TAG, STAGE_TAG
from registry.digests import digest_file
from registry.promotion import MoveAlias, check_gate
from registry.release import (
    ADAPTER_TAG,
    BASE_TAG,
    DIGEST_TAG,
    LICENCE_TAG,
    PARENT_TAG,
    SOURCE_TAG,
    TRAINING_DATA_TAG,
    Release,
)
from tests.pipelines.conftest import Command, Result, a_command

pytestmark = pytest.mark.real

MODULE = "pipelines.retrain"
NAME = "taught"
_RATIOS = itertools.count(1001)


@pytest.fixture
def int8(tmp_path) -> Path:
    """A recipe that is done in a moment."""
    file = tmp_path / "int8.yaml"
    file.write_text("method: int8\n")
    return file


@dataclass(frozen=True)
class Chain:
    """v1 is released and champion; v2 was trained of it, v3 of v2; both in processes of their own."""

    command: Command
    words: tuple[str, ...]
    released: Result
    taught: Result
    again: Result


def words(name: str, data: Path, recipe: Path, adapter: Path, margins: Path) -> tuple[str, ...]:
    return (
        "--name", name, "--data", str(data), "--recipe", str(recipe), "--adapter", str(adapter),
        "--margins", str(margins),
    )  # fmt: skip


@pytest.fixture(scope="module")
def given(training_data, recipe, adapter, tmp_path_factory) -> Callable[[str], tuple[str, ...]]:
    """The options under which a model of that name is trained."""
    wide = tmp_path_factory.mktemp("margins") / "wide.yaml"
    wide.write_text(
        "{perplexity_ratio: 1000, accuracy_drop: 1, divergence: 100, disagreement: 1, golden_drop: 1, repetition_rise: 1}"
    )
    return lambda name: words(name, training_data, recipe, adapter, wide)


@pytest.fixture(scope="module")
def chain(servers, tiny_model, training_data, recipe, given, tmp_path_factory) -> Chain:
    command = a_command(servers, tmp_path_factory.mktemp("taught"))
    options = given(NAME)
    source = shutil.copytree(tiny_model, tmp_path_factory.mktemp("source") / "model")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    released = command.call(
        release, "--source", str(source), "--name", NAME, "--recipe", str(recipe)
    )
    assert released.returncode == 0, released.stderr
    servers.registry.write(NAME, MoveAlias(alias="champion", version="1"))
    taught = command.call(
        retrain, *options, "--digest", digest_file(training_data), "--set-challenger", "true"
    )
    again = command.run(MODULE, *options, "--parent", "2", "--set-challenger", "true")
    return Chain(command, options, released, taught, again)


@pytest.fixture
def other_margins(tmp_path) -> tuple[str, str]:
    """As wide, and others each time."""
    file = tmp_path / "wide.yaml"
    ratio = next(_RATIOS)
    file.write_text(
        f"{{perplexity_ratio: {ratio}, accuracy_drop: 1, divergence: 100, disagreement: 1, golden_drop: 1, repetition_rise: 1}}"
    )
    return "--margins", str(file)


@pytest.fixture
def versions(servers, chain):
    assert chain.taught.returncode == 0, chain.taught.stderr
    assert chain.again.returncode == 0, chain.again.stderr
    return {number: servers.registry.version(NAME, number) for number in ("1", "2", "3")}


def child(servers, chain: Chain, run_id: str, stage: str):
    [run] = chain.command.runs(
        f"tags.mlflow.parentRunId = '{run_id}' and tags.`{STAGE_TAG}` = '{stage}'"
    )
    return servers.client.get_run(run["run_id"])


def test_a_retrained_version_may_be_promoted(versions) -> None:
    assert isinstance(check_gate(versions["2"]), Release)
    assert versions["2"].tags[DIGEST_TAG] != versions["1"].tags[DIGEST_TAG]


def test_it_begins_at_the_unquantized_base_of_the_champion(servers, chain, versions) -> None:
    run = child(servers, chain, versions["2"].run_id, "download")
    assert run.data.tags[OUTPUT_TAG] == versions["1"].tags[BASE_TAG]
    assert run.data.tags[OUTPUT_TAG] != versions["1"].tags[DIGEST_TAG]


def test_the_next_one_begins_at_what_the_last_one_made_from_s3(servers, chain, versions) -> None:
    run = child(servers, chain, versions["3"].run_id, "download")
    assert run.data.tags[OUTPUT_TAG] == versions["2"].tags[BASE_TAG]
    assert versions["2"].tags[SOURCE_TAG].startswith("s3://")


def test_the_version_says_its_parent_its_data_and_its_adapter(
    versions, training_data, chain
) -> None:
    tags = versions["2"].tags
    assert tags[PARENT_TAG] == f"models:/{NAME}/1"
    assert versions["3"].tags[PARENT_TAG] == f"models:/{NAME}/2"
    assert json.loads(tags[TRAINING_DATA_TAG])["digest"] == digest_file(training_data)
    assert json.loads(tags[ADAPTER_TAG])["rank"] == 4


def test_the_licence_of_the_first_base_goes_along(versions) -> None:
    assert [versions[number].tags[LICENCE_TAG] for number in "123"] == ["apache-2.0"] * 3


def test_the_run_has_the_loss_curve_the_held_out_loss_and_the_adapter(
    servers, chain, versions
) -> None:
    run = child(servers, chain, versions["2"].run_id, "retrain")
    curve = servers.client.get_metric_history(run.info.run_id, "train_loss")
    roles = {tag.value for given in run.inputs.dataset_inputs for tag in given.tags}
    artifacts = {item.path for item in servers.client.list_artifacts(run.info.run_id)}
    assert [point.step for point in curve] == list(range(16))
    assert run.data.metrics["holdout_loss"] < run.data.metrics["holdout_loss_before"] - 0.5
    assert roles == {"parent", "base model", "training data"}
    assert artifacts == {"training.csv", "adapter_config.json", "adapter_model.safetensors"}
    assert run.data.params["adapter.rank"] == "4"


def test_the_alias_is_set_when_asked_and_never_pushed_aside(servers, chain, versions) -> None:
    assert servers.registry.aliases(NAME) == {"champion": "1", "challenger": "2"}
    assert f"{NAME} v2 is challenger now" in chain.taught.stdout
    assert "v3 may be promoted, but v2 is challenger and is not pushed aside" in chain.again.stdout


def test_a_night_without_new_data_makes_no_version_and_says_so(
    servers, chain, versions, call
) -> None:
    home = {"SHIPWAY_HOME": str(chain.command.home)}
    before = {version.version for version in servers.registry.versions(NAME)}
    result = call(retrain, *chain.words, "--set-challenger", "true", **home)
    assert result.returncode == 0, result.stderr
    assert f"nothing new: {NAME} v2 was trained on these data already" in result.stdout
    assert {version.version for version in servers.registry.versions(NAME)} == before
    assert servers.registry.aliases(NAME) == {"champion": "1", "challenger": "2"}


def test_with_other_margins_the_training_is_reused_and_has_its_curve_too(
    servers, chain, versions, other_margins
) -> None:
    result = chain.command.call(retrain, *chain.words, *other_margins)
    assert result.returncode == 0, result.stderr
    made = servers.registry.version(NAME, result.stdout.rpartition("taught v")[2].split()[0])
    run = child(servers, chain, made.run_id, "retrain")
    earlier = child(servers, chain, versions["2"].run_id, "retrain")
    curves = [
        [(p.step, p.value) for p in servers.client.get_metric_history(r.info.run_id, "train_loss")]
        for r in (run, earlier)
    ]
    assert run.data.tags[REUSED_TAG] == earlier.info.run_id
    assert curves[0] == curves[1]
    assert made.tags[DIGEST_TAG] == versions["2"].tags[DIGEST_TAG]


def test_a_failed_gate_registers_the_version_and_asks_for_nothing(
    servers, call, tiny_model, int8, given, tmp_path
) -> None:
    name = tmp_path.name
    made = call(release, "--source", str(tiny_model), "--name", name, "--recipe", str(int8))
    assert made.returncode == 0, made.stderr
    servers.registry.write(name, MoveAlias(alias="champion", version="1"))
    strict = tmp_path / "strict.yaml"
    strict.write_text("{perplexity_ratio: 1, accuracy_drop: 0}")
    options = given(name)[:-2]
    result = call(
        retrain, *options, "--recipe", str(int8), "--margins", str(strict),
        "--set-challenger", "true",
    )  # fmt: skip
    assert result.returncode == 1
    assert f"{name} v2 is registered but did not pass its gate" in result.stderr
    assert servers.registry.aliases(name) == {"champion": "1"}


def test_what_cannot_work_is_refused_before_anything_is_fetched(
    call, command, recipe, adapter, given, tmp_path
) -> None:
    other, broken = "sha256:" + "0" * 64, tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{\n')
    options = given("nobody")
    for more, says in (
        (("--digest", other), f"but {other} was asked for"),
        (("--digest", "abc"), "'abc' is not a digest"),
        (("--data", str(broken)), "Line 2 of"),
        (("--data", str(tmp_path / "none")), "cannot be read"),
        (("--adapter", str(recipe)), "method: Input should be 'lora'"),
        (("--recipe", str(adapter)), "method"),
        (("--engine", "triton-python"), "which triton-python cannot serve"),
        ((), "nobody"),
    ):
        result = call(retrain, *options, *more)
        assert result.returncode in {1, 2}, more
        assert says in result.stderr
        assert "Traceback" not in result.stderr
    assert command.work() == []
    assert {run["status"] for run in command.runs()} == {"FAILED"}


def test_a_champion_whose_base_is_gone_is_refused_with_the_way_out(
    servers, call, tiny_copy, int8, given, tmp_path
) -> None:
    name, source = tmp_path.name, tiny_copy("source")
    made = call(release, "--source", str(source), "--name", name, "--recipe", str(int8))
    assert made.returncode == 0, made.stderr
    servers.registry.write(name, MoveAlias(alias="champion", version="1"))
    moved = source.rename(tmp_path / "moved")
    gone = call(retrain, *given(name), "--recipe", str(int8))
    named = call(retrain, *given(name), "--recipe", str(int8), "--base", str(moved))
    assert gone.returncode == 2
    assert f"There is no model at {source}" in gone.stderr
    assert named.returncode == 0, named.stderr


def test_data_may_lie_in_s3_in_a_folder_of_its_own(  # noqa: PLR0917 - fixtures
    servers, call, chain, given, training_data, other_margins, tmp_path
) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "chats.jsonl").write_bytes(training_data.read_bytes())
    stored = servers.store.put(tmp_path / "up").source
    nowhere = stored[:-8] + "00000000"
    home = {"SHIPWAY_HOME": str(chain.command.home)}
    result = call(retrain, *given(NAME), "--data", stored, *other_margins, **home)
    absent = call(retrain, *given(NAME), "--data", nowhere, **home)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^retrain +.*reused", result.stdout, re.MULTILINE), result.stdout
    assert (absent.returncode, absent.stderr.count("There are no files at")) == (2, 1)
