"""What an operator may ask of experiments, and what is refused with the way out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets import cli, experiments, operate
from deploy_targets.endpoint import Endpoint
from deploy_targets.experiments import ExperimentRequest, request_experiment, request_stop
from deploy_targets.rollout.experiment_state import ExperimentOutcome
from deploy_targets.rollout.state import EndpointState, Override
from deploy_targets.rollout.store import SqliteStore
from registry.errors import BadInput, IntegrityError, PromotionRefused, StateConflict
from registry.release import APPROVAL_TAG, ModelVersion, Release
from tests.builders import NOON, a_release, a_version, an_endpoint, an_exposed_rollout
from tests.rollout.test_experiments import a_sticky_endpoint


class Plane:
    """A controller's world with versions 6 to 9; v6 serves and v9 has failed its gate."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self.states = SqliteStore(folder / "state.db")
        self.endpoint = endpoint
        self.file: Any = self
        self.versions = {str(n): a_version(str(n)) for n in (6, 7, 8)}
        self.versions["9"] = a_version("9", passed=False, reasons=("v9 is too wrong",))
        self.keep(EndpointState(endpoint="chat", serving=a_release("6")))

    def keep(self, state: EndpointState) -> None:
        self.states.save(state, expected=self.states.load("chat").revision)

    @property
    def state(self) -> EndpointState:
        return self.states.load("chat").state

    def named(self, _: str) -> Endpoint:
        return self.endpoint

    def store(self) -> SqliteStore:
        return self.states

    def registry(self) -> Any:
        def version(_: str, number: str) -> ModelVersion:
            return self.versions[number]

        return SimpleNamespace(version=version)

    def artifacts(self) -> Any:
        return None

    def trusted_keys(self) -> Any:
        return None

    def wake_controller(self) -> str:
        return ""

    def ask(self, *versions: str, **changes: Any) -> str:
        known: dict[str, Any] = {
            "name": "e",
            "versions": versions or ("7",),
            "share": 50,
            "goal": "errors",
            "until": None,
            "users": 2_000,
            "by": "ada",
        }
        asked = ExperimentRequest(**{**known, **changes})
        plane: Any = self
        return request_experiment(plane, self.endpoint, asked, now=NOON)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases whose bytes were checked."""
    seen: list[str] = []

    def check(release: Release, *_: object) -> None:
        seen.append(release.version)

    monkeypatch.setattr(experiments, "check_release", check)
    return seen


@pytest.fixture
def plane(tmp_path: Path, checked: list[str]) -> Plane:
    return Plane(tmp_path, a_sticky_endpoint())


def test_it_is_saved_with_its_shares_and_every_version_was_checked(
    plane: Plane, checked: list[str]
) -> None:
    said = plane.ask("7", "8", share=60)
    assert "v6 40 %, v7 30 %, v8 30 %" in said
    assert checked == ["7", "8"]
    experiment = plane.state.experiment
    assert experiment is not None
    assert (experiment.champion, experiment.versions) == ("6", ("7", "8"))


def test_naming_what_serves_as_well_changes_nothing(plane: Plane) -> None:
    plane.ask("6", "7")
    assert plane.state.experiment is not None
    assert plane.state.experiment.versions == ("7",)


@pytest.mark.parametrize(
    ("versions", "changes", "way_out"),
    [
        (("7",), {"name": "it's"}, "begin with a letter or a digit"),
        (("7",), {"name": "a\nb"}, "begin with a letter or a digit"),
        (("6",), {}, "other than the one that serves"),
        (("7", "7"), {}, "each once"),
        (("7",), {"share": 51}, "give 1 to 50 percent"),
        (("7", "8"), {"share": 67}, "give 2 to 66 percent"),
        (("7", "8"), {"share": 1}, "give 2 to 66 percent"),
        (("7",), {"goal": "quality"}, "does not count it for each user yet"),
        (("7",), {"goal": "feedback"}, "does not count it for each user yet"),
        (("7",), {"goal": "latency"}, "declare rollout.metrics.latency"),
        (("7",), {"users": None}, "Give --until or --users"),
        (("7",), {"until": NOON}, "give a time to come"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(
    plane: Plane, versions: tuple[str, ...], changes: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(BadInput, match=way_out):
        plane.ask(*versions, **changes)
    assert plane.state.experiment is None


def test_what_may_not_be_rolled_out_takes_no_part(plane: Plane) -> None:
    with pytest.raises(PromotionRefused, match="v9 is too wrong"):
        plane.ask("9")


def test_bytes_that_are_not_those_that_were_evaluated_take_no_part(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise IntegrityError

    monkeypatch.setattr(experiments, "check_release", refuse)
    with pytest.raises(IntegrityError):
        plane.ask("7")


def test_an_endpoint_that_asks_for_approval_asks_for_it_here_too(
    tmp_path: Path, checked: list[str]
) -> None:
    declared = a_sticky_endpoint().model_dump() | {"promote": {"approval": "tag"}}
    plane = Plane(tmp_path, Endpoint.model_validate(declared))
    with pytest.raises(PromotionRefused, match="is not approved"):
        plane.ask("7")
    plane.versions["7"] = a_version("7", tags={APPROVAL_TAG: "yes"})
    assert plane.ask("7").startswith("Saved")
    assert checked == ["7"]


def test_without_sticky_users_there_is_none(tmp_path: Path, checked: list[str]) -> None:
    with pytest.raises(BadInput, match=r"Declare guard\.sticky"):
        Plane(tmp_path, an_endpoint()).ask("7")
    assert checked == []


def test_two_at_once_or_one_beside_a_rollout_are_refused(plane: Plane) -> None:
    free = plane.state
    plane.ask("7")
    with pytest.raises(BadInput, match="shipway experiment stop chat"):
        plane.ask("8")
    plane.keep(replace(free, rollout=an_exposed_rollout()))
    with pytest.raises(BadInput, match="A rollout is under way"):
        plane.ask("8")
    plane.keep(replace(free, override=Override(to=None, reason="back")))
    with pytest.raises(BadInput, match="A rollout is under way"):
        plane.ask("8")
    plane.keep(EndpointState(endpoint="chat"))
    with pytest.raises(BadInput, match="Nothing serves"):
        plane.ask("8")


def test_it_is_stopped_by_a_word_that_is_saved(plane: Plane) -> None:
    with pytest.raises(BadInput, match="No experiment is under way"):
        request_stop(plane.states, plane.endpoint, reason="x", by="ada")
    plane.ask("7")
    said = request_stop(plane.states, plane.endpoint, reason="the fair is on", by="ada")
    assert "all requests go to v6" in said
    assert plane.state.experiment is not None
    assert plane.state.experiment.stop == "operator ada: the fair is on"


def test_the_commands_start_show_and_stop_it(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy_targets import experiment_commands

    app = experiment_commands.experiment_app(lambda _: plane)  # type: ignore[arg-type,return-value]
    until = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%d")

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, result.output

    assert "There was no experiment" in run("status", "chat")[1]
    started = run("start", "chat", "--name", "short", "--versions", "v7,8", "--until", until)
    assert started[0] == 0, started
    assert "experiment short: v7, v8 against v6 by errors, warming" in run("status", "chat")[1]
    assert '"name": "short"' in run("status", "chat", "--json")[1]
    assert run("stop", "chat", "--reason", "done")[0] == 0
    assert plane.state.experiment is not None
    assert plane.state.experiment.stop.endswith(": done")


def test_a_rollback_that_the_end_of_its_experiment_outran_takes_nothing_else_back(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.ask("7")
    asked: list[str] = []

    def outrun(*_: object, **__: object) -> str:
        asked.append("rollback")
        ended = plane.state.with_experiment_ended(ExperimentOutcome.DECIDED, "v7 lost", now=NOON)
        plane.keep(ended)
        raise StateConflict("chat")

    def known(_: object) -> Plane:
        return plane

    monkeypatch.setattr(cli, "compose", known)
    monkeypatch.setattr(operate, "request_rollback", outrun)
    done = CliRunner().invoke(cli.app, ["rollback", "chat"])
    assert isinstance(done.exception, StateConflict)
    assert asked == ["rollback"]


def test_the_command_is_part_of_shipway() -> None:
    said = CliRunner().invoke(cli.app, ["experiment", "--help"]).output
    assert all(word in said for word in ("start", "status", "stop"))
