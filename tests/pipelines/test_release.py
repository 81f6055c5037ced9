"""The whole chain on a tiny model, real libraries and real servers: made, made again, and made afresh."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pipelines import release
from pipelines.compare import main as evaluate
from pipelines.download.__main__ import main as download
from pipelines.quantize.__main__ import main as quantize
from pipelines.session import OUTPUT_TAG, REUSED_TAG, STAGE_TAG
from pipelines.version import VERSION_TAG
from pipelines.version import main as make_version
from registry.digests import describe_folder, digest_file
from registry.promotion import MoveAlias, Refused, check_gate
from registry.release import (
    BASE_TAG,
    BILL_TAG,
    DATA_TAG,
    DIGEST_TAG,
    GATE_TAG,
    RECIPE_TAG,
    SCORECARD_TAG,
    SIGNATURE_TAG,
    SIZE_TAG,
    SOURCE_TAG,
    ModelVersion,
    Release,
)
from registry.signing import SigningKey, make_private_key
from tests.pipelines.conftest import Command, Result, a_command

pytestmark = pytest.mark.real

STAGES = ("download", "quantize", "evaluate", "version")
MODULE = "pipelines.release"


@dataclass(frozen=True)
class Chain:
    """Three releases of the same inputs: the first, one that can reuse it, and one that may not."""

    command: Command
    first: Result
    again: Result
    fresh: Result
    arguments: tuple[str, ...]


@pytest.fixture(scope="module")
def chain(servers, tiny_model, recipe, tmp_path_factory) -> Chain:
    command = a_command(servers, tmp_path_factory.mktemp("chain"))
    key_file = tmp_path_factory.mktemp("keys") / "key"
    key_file.write_text(make_private_key())
    command.environment["SHIPWAY_SIGNING_KEY_FILE"] = str(key_file)
    arguments = ("--source", str(tiny_model), "--name", "chain", "--recipe", str(recipe))
    return Chain(
        command,
        first=command.call(release.main, *arguments),
        again=command.call(release.main, *arguments),
        # As a user starts it, in a process and a folder of its own.
        fresh=command.run(MODULE, *arguments, "--fresh", "true"),
        arguments=arguments,
    )


@pytest.fixture
def version(servers, chain) -> ModelVersion:
    return servers.registry.version("chain", "1")


def run_of(servers, version: str) -> str:
    """The id of the release run that made `version`."""
    return servers.registry.version("chain", version).run_id


def child(servers, chain: Chain, version: str, stage: str):
    """MLflow's own view of a stage's run."""
    [run] = chain.command.runs(
        f"tags.mlflow.parentRunId = '{run_of(servers, version)}' and tags.`{STAGE_TAG}` = '{stage}'"
    )
    return servers.client.get_run(run["run_id"])


def test_a_release_ends_well_and_says_how_to_promote(chain) -> None:
    for number, result in enumerate((chain.first, chain.again, chain.fresh), start=1):
        assert result.returncode == 0, result.stderr
        assert f"chain v{number} may be promoted" in result.stdout


def test_nothing_but_its_own_words_reaches_the_terminal(chain) -> None:
    lines = chain.fresh.stdout.splitlines()
    assert {line.split()[0] for line in lines} == {*STAGES, "release"}
    # On a slow machine, how far long work is: a line every 15 s.
    how_far = re.compile(r"[\w -]+: \d+ of \d+( \w+)?")
    assert [line for line in chain.fresh.stderr.splitlines() if not how_far.fullmatch(line)] == []


def test_the_working_directory_stays_as_it_was(chain) -> None:
    assert list(chain.command.here.iterdir()) == []


def test_the_version_may_be_promoted(version) -> None:
    release = check_gate(version)
    assert isinstance(release, Release), release
    assert release.digest == version.tags[DIGEST_TAG]


def test_the_version_tells_its_scores_its_base_its_recipe_and_its_run(
    servers, chain, version
) -> None:
    scorecard = json.loads(version.tags[SCORECARD_TAG])
    gate = json.loads(version.tags[GATE_TAG])
    assert {name: score["n"] for name, score in scorecard["scores"].items()} == {
        "perplexity": 10,
        "divergence": 32,
        "top1_agreement": 32,
        "golden": 24,
        "format": 12,
        "repetition": 36,
        "next_name": 80,
    }
    assert (gate["passed"], gate["reasons"]) == (True, [])
    assert json.loads(version.tags[RECIPE_TAG])["group_size"] == 32
    download = child(servers, chain, "1", "download")
    assert version.tags[BASE_TAG] == download.data.tags[OUTPUT_TAG]
    tags = servers.client.get_run(version.run_id).data.tags
    assert (tags[STAGE_TAG], tags[VERSION_TAG]) == ("release", "1")


def test_the_bytes_in_s3_are_those_of_the_digest(servers, version, tmp_path) -> None:
    folder = servers.store.fetch(version.source, version.tags[DIGEST_TAG], into=tmp_path)
    manifest = describe_folder(folder)
    assert manifest.digest == version.tags[DIGEST_TAG]
    assert version.tags[SIZE_TAG] == str(manifest.size_bytes)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["bits"] == 4


def test_the_version_is_signed_and_nobody_is_told_where_the_key_is(servers, chain, version) -> None:
    file = Path(chain.command.environment["SHIPWAY_SIGNING_KEY_FILE"])
    key = SigningKey.read(file)
    manifest = servers.store.check(version.source, version.tags[DIGEST_TAG])
    signature = servers.store.signature(version.source)
    assert key.trusted.check(manifest, signature, source=version.source) == key.id
    assert version.tags[SIGNATURE_TAG] == key.id
    assert f"signed with {key.id}" in chain.first.stdout
    run = servers.client.get_run(version.run_id)
    stage = child(servers, chain, "1", "version")
    told = f"{chain.first.stdout}{version}{run.to_dictionary()}{stage.to_dictionary()}"
    assert str(file) not in told
    assert file.read_text().splitlines()[1] not in told


def test_a_key_that_cannot_sign_is_refused_before_any_work(call, command, tiny_model) -> None:
    arguments = ("--source", str(tiny_model), "--name", "unsigned", "--recipe", "absent.yaml")
    refused = call(release.main, *arguments, SHIPWAY_SIGNING_KEY_FILE="absent.key")
    assert refused.returncode == 2
    assert "The key absent.key cannot be read" in refused.stderr
    assert command.work() == []


@dataclass(frozen=True)
class Told:
    """What a stage's run has in MLflow, at least."""

    inputs: set[str]
    params: set[str]
    metrics: set[str]
    artifacts: set[str]


TOLD = {
    "download": Told(
        {"source"},
        {"source.source", "source.source_digest"},
        {"size_bytes", "work_s", "stage_s"},
        set(),
    ),
    "quantize": Told(
        {"model", "calibration"},
        {"recipe.method", "recipe.bits", "recipe.group_size", "recipe.seed"},
        {"loss_mean", "loss_max", "size_bytes", "size_ratio", "work_s"},
        {"losses.csv"},
    ),
    "evaluate": Told(
        {"base model", "model", "perplexity text", "tasks", "prompts"},
        set(),
        {
            "perplexity",
            "base.perplexity",
            "next_name",
            "next_name_se",
            "divergence_se",
            "top1_agreement_se",
            "golden_se",
            "format_se",
            "repetition_se",
            "gate.passed",
            "decode_tokens_s_se",
            "base.peak_memory_bytes",
            "weights_bytes",
        },
        {"evaluation.json"},
    ),
    "version": Told(
        {"model"}, {"registered_model", "version", "artifact"}, set(), {"bom.cdx.json"}
    ),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_each_stage_is_a_finished_child_run_with_what_went_in_and_came_out(
    servers, chain, number, stage
) -> None:
    run, told = child(servers, chain, number, stage), TOLD[stage]
    roles = {tag.value for given in run.inputs.dataset_inputs for tag in given.tags}
    assert run.info.status == "FINISHED"
    assert roles == told.inputs
    assert told.params <= run.data.params.keys()
    assert told.metrics <= run.data.metrics.keys()
    artifacts = {item.path for item in servers.client.list_artifacts(run.info.run_id)}
    assert artifacts == told.artifacts


def test_the_lineage_goes_unbroken_from_the_version_to_the_source(servers, chain, version) -> None:
    def digests(stage: str) -> dict[str, str]:
        run = child(servers, chain, "1", stage)
        return {
            tag.value: json.loads(given.dataset.source)["digest"]
            for given in run.inputs.dataset_inputs
            for tag in given.tags
        }

    made = {s: child(servers, chain, "1", s).data.tags.get(OUTPUT_TAG) for s in STAGES}
    assert digests("version")["model"] == digests("evaluate")["model"] == made["quantize"]
    assert digests("evaluate")["base model"] == digests("quantize")["model"] == made["download"]
    assert made["version"] == version.tags[DIGEST_TAG]


def test_the_version_alone_answers_base_recipe_data_licence_scores_and_loss(
    servers, chain, version, tiny_model, tmp_path
) -> None:
    """Read back as anybody would: from the version and the run that it names, through MLflow's own client."""
    base = describe_folder(tiny_model).digest
    data = json.loads(version.tags[DATA_TAG])
    assert version.tags[SOURCE_TAG] == str(tiny_model)
    assert version.tags[BASE_TAG] == base
    assert json.loads(version.tags[RECIPE_TAG])["bits"] == 4
    assert data["calibration"] == digest_file(chain.command.home / "data" / "calibration.jsonl")
    assert data["perplexity"] == digest_file(chain.command.home / "data" / "perplexity.txt")
    assert {"perplexity", "next_name"} <= json.loads(version.tags[SCORECARD_TAG])["scores"].keys()
    run = servers.client.get_run(version.run_id)
    given = {
        tag.value: json.loads(one.dataset.source)["digest"]
        for one in run.inputs.dataset_inputs
        for tag in one.tags
    }
    assert (given["base"], given["calibration"]) == (base, data["calibration"])
    assert run.data.params["recipe.bits"] == "4"
    assert {"evaluate/perplexity", "evaluate/base.perplexity", "quantize/loss_mean"} <= (
        run.data.metrics.keys()
    )
    [made] = run.outputs.model_outputs
    model = servers.client.get_logged_model(made.model_id)
    assert model.params["artifact"] == version.source
    assert {"perplexity", "gate.perplexity.base"} <= {metric.key for metric in model.metrics}
    name = version.tags[BILL_TAG].removeprefix(f"runs:/{version.run_id}/")
    bill = servers.tracking.download_artifacts(version.run_id, name, tmp_path).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    assert json.loads(bill)["metadata"]["component"]["version"] == version.tags[DIGEST_TAG]


def test_a_rerun_reuses_what_finished_and_says_so(servers, chain) -> None:
    assert "reused" not in chain.first.stdout
    assert "reused" not in chain.fresh.stdout
    for stage in ("download", "quantize", "evaluate"):
        line = next(x for x in chain.again.stdout.splitlines() if x.startswith(f"{stage:9} done"))
        assert line.endswith("reused from an earlier run")
    for stage in ("download", "quantize"):
        earlier = child(servers, chain, "1", stage).info.run_id
        assert child(servers, chain, "2", stage).data.tags[REUSED_TAG] == earlier


def test_the_same_inputs_give_the_same_bytes_and_the_same_scores(servers, chain) -> None:
    made = [servers.registry.version("chain", number) for number in ("1", "2", "3")]
    assert len({version.tags[DIGEST_TAG] for version in made}) == 1
    assert len({version.tags[SCORECARD_TAG] for version in made}) == 1


def test_neither_a_path_nor_a_calibration_text_is_in_the_artifact(chain) -> None:
    [quantized] = [name for name in chain.command.work() if name.startswith("quantize")]
    folder = chain.command.home / "work" / quantized / "model"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    texts = (chain.command.home / "data" / "calibration.jsonl").read_text().splitlines()
    text = json.loads(texts[0])["text"]
    assert "model.safetensors" in files
    for secret in (str(chain.command.home), "/tmp/", "offload_to_disk_path", text[100:140]):
        assert [name for name, content in files.items() if secret.encode() in content] == []


def test_a_failed_gate_registers_the_version_and_it_is_refused(servers, chain, tmp_path) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text("{perplexity_ratio: 1, accuracy_drop: 0}")
    margins = ("--margins", str(strict))
    result = chain.command.call(
        release.main, *chain.arguments[:3], "strict", *chain.arguments[4:], *margins
    )
    version = servers.registry.version("strict", "1")
    refused = check_gate(version)
    assert result.returncode == 1
    assert "strict v1 is registered but did not pass its gate" in result.stderr
    assert isinstance(refused, Refused)
    assert "perplexity is" in str(refused.reasons)
    assert servers.client.get_run(version.run_id).info.status == "FAILED"


def last_words(result: Result) -> list[str]:
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split()


def test_each_stage_works_alone_on_what_the_one_before_printed(
    servers, chain, tiny_model, recipe
) -> None:
    call = chain.command.call
    _, base, base_digest = last_words(call(download, "--source", str(tiny_model)))
    _, model, digest = last_words(call(quantize, "--model", base, "--recipe", str(recipe)))
    _, evaluation = last_words(call(evaluate, "--base", base, "--model", model))
    result = call(
        make_version, "--name", "alone", "--model", model,
        "--evaluation", evaluation, "--recipe", str(recipe),
    )  # fmt: skip
    version = servers.registry.version("alone", "1")
    assert result.returncode == 0, result.stderr
    assert isinstance(check_gate(version), Release)
    assert (version.tags[DIGEST_TAG], version.tags[BASE_TAG]) == (digest, base_digest)
    statuses = {r[STAGE_TAG]: r["status"] for r in chain.command.runs()[:4]}
    assert statuses == dict.fromkeys(STAGES, "FINISHED")


def test_versions_that_are_there_are_measured_as_they_are_in_the_registry(
    servers, command, tiny_model
) -> None:
    call = command.call
    for name in ("old", "new"):
        _, model, _ = last_words(call(download, "--source", str(tiny_model)))
        _, evaluation = last_words(call(evaluate, "--base", model, "--model", model))
        last_words(call(make_version, "--name", name, "--model", model, "--evaluation", evaluation))
    base, model = "models:/old/1", "models:/new/1"
    _, file = last_words(call(evaluate, "--base", base, "--model", model))
    assert json.loads(Path(file).read_text()) == json.loads(Path(evaluation).read_text())
    newest = next(one for one in command.runs() if one[STAGE_TAG] == "evaluate")
    run = servers.client.get_run(newest["run_id"])
    assert not any(name.startswith("source.") for name in run.data.params)
    told = servers.client.search_runs(
        [run.info.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'"
    )
    assert {one.data.params["source.source"] for one in told} == {base, model}


def test_a_version_that_was_not_evaluated_is_not_registered(servers, chain, tiny_model) -> None:
    file = next((chain.command.home / "work").glob("evaluation-*.json"))
    result = chain.command.call(
        make_version,
        "--name",
        "other",
        "--model",
        str(tiny_model),
        "--evaluation",
        str(file),
    )
    assert result.returncode == 1
    assert "was evaluated. Run `evaluate` on this model" in result.stderr
    assert "other" not in servers.registry.models()


def test_a_stage_runs_under_mlflow_run_and_is_the_run_that_mlflow_made(
    servers, chain, tiny_model
) -> None:
    root = Path(__file__).parents[2]
    result = chain.command.run(
        "mlflow", "run", str(root), "-e", "download", "--env-manager", "local",
        "-P", f"source={tiny_model}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [run] = [r for r in chain.command.runs() if r.get("mlflow.project.entryPoint") == "download"]
    assert (run[STAGE_TAG], run["status"]) == ("download", "FINISHED")
    assert run[OUTPUT_TAG] == child(servers, chain, "1", "download").data.tags[OUTPUT_TAG]


def test_a_base_that_is_named_by_an_alias_is_noted_by_its_number(servers, chain, tmp_path) -> None:
    recipe = tmp_path / "none.yaml"
    recipe.write_text("method: none")
    servers.registry.write("chain", MoveAlias(alias="gold", version="1"))
    given = ("--source", "models:/chain@gold", "--name", "copied", "--recipe", str(recipe))
    result = chain.command.call(release.main, *given)
    assert result.returncode == 0, result.stderr
    assert servers.registry.version("copied", "1").tags[SOURCE_TAG] == "models:/chain/1"


def test_a_setting_that_cannot_be_used_is_named_without_a_traceback(chain) -> None:
    result = chain.command.call(release.main, *chain.arguments, SHIPWAY_KEEP_WORK_DAYS="0")
    assert result.returncode == 2
    assert "SHIPWAY_KEEP_WORK_DAYS cannot be used" in result.stderr
    assert "Traceback" not in result.stderr
