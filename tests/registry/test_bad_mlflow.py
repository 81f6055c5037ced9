"""An MLflow that answers nonsense, half, late or not at all is away: nothing is concluded from it, and nothing waits long."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from deploy_targets.endpoint import StageRequest
from deploy_targets.rollout.audit_trail import AuditTrail
from deploy_targets.rollout.journal import Journal
from deploy_targets.rollout.picture import draw_rollout
from deploy_targets.rollout.state import EndpointState, Phase, Point
from deploy_targets.routing.traffic import Traffic
from registry.errors import RegistryUnavailable
from registry.mlflow_registry import MlflowRegistry
from registry.promotion import (
    AliasTrigger,
    MoveAlias,
    RegistryFacts,
    StageTrigger,
    TagVersion,
    TransitionStage,
)
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow
from tests.builders import NOON, an_endpoint, an_exposed_rollout
from tests.registry.bad_mlflow import (
    CONTENT_FAULTS,
    FAULTS,
    MODEL,
    RUN,
    BadMlflow,
    a_bad_mlflow,
    drip,
    drip_headers,
)
from tests.rollout.test_controller import World

pytestmark = pytest.mark.filterwarnings("ignore:.*stages will be removed:FutureWarning")

ALIAS, STAGE = AliasTrigger(), StageTrigger(stage="Production")
LIMIT_S = 10

Call = Callable[[BadMlflow], object]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadMlflow]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with a_bad_mlflow() as server:
        yield server


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what answers: only what never does is to be given up soon."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LIMIT_S))


def client_of(mlflow: BadMlflow) -> Any:
    return connect_mlflow(RegistrySettings(tracking_uri=mlflow.url))


def registry_of(mlflow: BadMlflow) -> MlflowRegistry:
    return MlflowRegistry(client_of(mlflow))


class NoRecords:
    """S3, which is not what is looked at here."""

    def put(self, name: str, content: bytes) -> None:
        """Keeps nothing."""


def write_journal(mlflow: BadMlflow) -> object:
    measured = (Point(index=0, at=NOON, weight=5),)  # without one there is no picture
    rollout = replace(an_exposed_rollout(), phase=Phase.STEPPING, points=measured)
    state = EndpointState(endpoint="chat", rollout=rollout)
    return Journal(Tracking(client_of(mlflow)), an_endpoint(), draw=draw_rollout).write(state)


def append_to_trail(mlflow: BadMlflow) -> object:
    trail = AuditTrail(NoRecords(), Tracking(client_of(mlflow)), endpoint="chat")  # type: ignore[arg-type]
    return trail.copy(('{"chain": "c", "number": 1, "rollout": "chat-v7"}',))


def tell(method: str, *arguments: object, **named: object) -> Call:
    return lambda mlflow: getattr(Tracking(client_of(mlflow)), method)(*arguments, **named)


def change(one: MoveAlias | TransitionStage | TagVersion) -> Call:
    return lambda mlflow: registry_of(mlflow).write(MODEL, one)


SET = MoveAlias(alias="champion", version="7", was="6")
DELETED = MoveAlias(alias="challenger", version=None, was="7")

# The call, and the request of it that goes wrong.
TELLING: dict[str, tuple[Call, str]] = {
    "facts by alias: model": (lambda m: registry_of(m).facts(MODEL, ALIAS), "registered-models/get"),
    "facts by alias: version": (lambda m: registry_of(m).facts(MODEL, ALIAS), "model-versions/get"),
    "facts by stage: model": (lambda m: registry_of(m).facts(MODEL, STAGE), "registered-models/get"),
    "facts by stage: versions": (lambda m: registry_of(m).facts(MODEL, STAGE), "model-versions/search"),
    "alias set: seen before": (change(SET), "registered-models/get"),
    "alias deleted: seen before": (change(DELETED), "registered-models/get"),
    "journal: experiment": (write_journal, "experiments/get-by-name"),
    "trail: experiment": (append_to_trail, "experiments/get-by-name"),
    "trail: run": (append_to_trail, "runs/get"),
    "run created": (tell("create_run", experiment_id="3", name="a", tags={}), "runs/create"),
    "picture": (tell("log_bytes", RUN, b"picture", "rollout.png"), "runs/get"),
}  # fmt: skip

# What MLflow refuses as impossible is NotFound where it was to be written: the next look decides.
WRITES: dict[str, tuple[Call, str]] = {
    "stage": (
        change(TransitionStage(version="7", stage="Archived")),
        "model-versions/transition-stage",
    ),
}
WRITE_FAULTS = {
    name: fault
    for name, fault in (FAULTS | CONTENT_FAULTS).items()
    if name != "a parameter that is missing"
}

# In these an empty answer is what a good MLflow says, too, or nothing is read from it.
QUIET: dict[str, tuple[Call, str]] = {
    "alias set": (change(SET), "registered-models/alias"),
    "alias deleted": (change(DELETED), "registered-models/alias"),
    "tags": (change(TagVersion(version="7", tags={"a": "b"})), "model-versions/set-tag"),
    "journal: run": (write_journal, "runs/search"),
    "journal: points so far": (write_journal, "metrics/get-history"),
    "journal: tags": (write_journal, "runs/log-batch"),
    "run closed": (tell("finish", RUN, status="FINISHED"), "runs/update"),
    "trail: search": (append_to_trail, "runs/search"),
}
# Its answer is a page of any kind: only its status tells.
UPLOADS: dict[str, tuple[Call, str]] = {
    "journal: picture": (write_journal, "artifact"),
    "trail: lines": (append_to_trail, "artifact"),
}
STATUS_FAULTS = {
    name: FAULTS[name] for name in ("500", "a page that is not found", "hangs", "resets")
}


def cases(calls: dict[str, Any], faults: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(*calls[call], faults[fault], id=f"{call}: {fault}")
        for call in calls
        for fault in faults
    ]


@pytest.mark.promise("it counts as away, within seconds")
@pytest.mark.parametrize(
    ("call", "request_", "fault"),
    [
        *cases(TELLING, FAULTS | CONTENT_FAULTS),
        *cases(WRITES, WRITE_FAULTS),
        *cases(QUIET, FAULTS),
        *cases(UPLOADS, STATUS_FAULTS),
    ],
)
def test_an_mlflow_that_makes_no_sense_is_unavailable_in_bounded_time(
    mlflow: BadMlflow, monkeypatch: pytest.MonkeyPatch, call: Call, request_: str, fault: Any
) -> None:
    if fault is not FAULTS["hangs"]:
        be_patient(monkeypatch)
    mlflow.faults[request_] = fault
    began = monotonic()

    with pytest.raises(RegistryUnavailable, match="MLflow did not give"):
        call(mlflow)

    assert request_ in mlflow.calls
    assert monotonic() - began < LIMIT_S


@pytest.mark.promise("it counts as away, within seconds")
@pytest.mark.parametrize("fault", [drip, drip_headers])
@pytest.mark.parametrize(
    "call",
    ["facts by alias: model", "alias set", "journal: tags", "trail: lines"],
)
def test_nor_is_an_answer_waited_for_that_comes_byte_by_byte(
    mlflow: BadMlflow, call: str, fault: Any
) -> None:
    made, request_ = {**TELLING, **QUIET, **UPLOADS}[call]
    mlflow.faults[request_] = fault
    began = monotonic()

    with pytest.raises(RegistryUnavailable, match="no whole answer within 2 s"):
        made(mlflow)

    assert monotonic() - began < LIMIT_S


@pytest.mark.parametrize(
    "call", [one for one, _ in [*TELLING.values(), *WRITES.values(), *QUIET.values()]]
)
def test_the_same_calls_go_well_where_it_answers_well(
    mlflow: BadMlflow, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    be_patient(monkeypatch)
    call(mlflow)


def test_what_is_read_of_it_then_is_what_it_says(mlflow: BadMlflow) -> None:
    aliases = {"champion": "6", "challenger": "7"}
    facts = registry_of(mlflow).facts(MODEL, ALIAS)
    assert (facts.aliases, set(facts.versions)) == (aliases, {"6", "7"})
    mlflow.aliases.clear()
    assert registry_of(mlflow).facts(MODEL, ALIAS) == RegistryFacts(model=MODEL)
    staged = registry_of(mlflow).facts(MODEL, STAGE)
    assert {v.version: v.stage for v in staged.versions.values()} == mlflow.stages


def test_it_is_not_waited_for_as_long_as_a_proxy_likes(
    mlflow: BadMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.faults[""] = FAULTS["come again in an hour"]
    began = monotonic()
    with pytest.raises(RegistryUnavailable):
        registry_of(mlflow).facts(MODEL, ALIAS)
    assert len(mlflow.calls) == 2
    assert monotonic() - began < LIMIT_S


@pytest.mark.parametrize("made", [SET, DELETED])
def test_an_alias_that_was_not_moved_though_the_answer_was_good_is_no_done_deed(
    mlflow: BadMlflow, made: MoveAlias
) -> None:
    mlflow.faults["registered-models/alias"] = CONTENT_FAULTS["nothing"]
    with pytest.raises(RegistryUnavailable, match="still"):
        registry_of(mlflow).write(MODEL, made)


class Unsaid(World):
    """v6 serves and v7 is at its first step; the registry is the bad MLflow, which is good so far."""

    def __init__(
        self, folder: Path, mlflow: BadMlflow, trigger: AliasTrigger | StageTrigger
    ) -> None:
        endpoint = an_endpoint()
        if isinstance(trigger, StageTrigger):
            promote = StageRequest.model_validate({"stage": trigger.stage})
            endpoint = endpoint.model_copy(update={"promote": promote})
        super().__init__(folder, endpoint)
        self.registry = registry_of(mlflow)  # type: ignore[assignment]
        self.mlflow = mlflow
        mlflow.aliases.clear()
        mlflow.stages = dict.fromkeys(mlflow.stages, "None")
        self.restart()
        self.ask("6")
        self.tick(6)
        assert self.state.rollout is None
        self.ask("7")
        while self.state.rollout is None or self.state.rollout.phase is not Phase.STEPPING:
            self.tick()

    def ask(self, version: str) -> None:
        if self.endpoint.trigger == ALIAS:
            self.mlflow.aliases["challenger"] = version
        else:
            self.mlflow.move_to_stage(version, "Production")


ALL_FAULTS = FAULTS | CONTENT_FAULTS
KINDS = ("not JSON", "500", "hangs", *CONTENT_FAULTS)
READS = {
    (ALIAS, ""): KINDS,
    (ALIAS, "registered-models/get"): ("an empty object", "about something else"),
    (ALIAS, "model-versions/get"): ("an empty object", "about something else"),
    (STAGE, ""): KINDS,
    (STAGE, "registered-models/get"): ("an empty object", "about something else"),
    (STAGE, "model-versions/search"): ("an empty object", "about something else"),
}


@pytest.mark.promise("traffic stays, and the rollout ends well")
@pytest.mark.parametrize(
    ("trigger", "call", "fault"),
    [
        pytest.param(*where, fault, id=f"{type(where[0]).__name__} {where[1]}: {fault}")
        for where, faults in READS.items()
        for fault in faults
    ],
)
def test_a_rollout_waits_while_mlflow_makes_no_sense_and_then_goes_on(
    mlflow: BadMlflow, tmp_path: Path, trigger: Any, call: str, fault: str
) -> None:
    world = Unsaid(tmp_path, mlflow, trigger)
    before, traffic, shifts = world.state, world.target.traffic, len(world.target.shifts)

    world.mlflow.faults[call] = ALL_FAULTS[fault]
    world.tick(2)

    after = world.state
    assert (before.rollout is None, after.rollout is None) == (False, False)
    assert after.rollout.id == before.rollout.id  # type: ignore[union-attr]
    assert (after.serving, after.rejected) == (before.serving, before.rejected)
    assert (world.target.traffic, len(world.target.shifts)) == (traffic, shifts)

    world.mlflow.faults.clear()
    world.tick(20)
    assert world.target.traffic == Traffic.all_to("7")
    assert world.mlflow.aliases == {"champion": "7"}
    assert world.outcomes == ["promoted", "promoted"]


@pytest.mark.promise("no user meets it again")
@pytest.mark.parametrize("fault", ["not JSON", "an empty object", "about something else"])
@pytest.mark.parametrize("trigger", [ALIAS, STAGE])
def test_what_is_rolled_back_while_mlflow_makes_no_sense_is_not_served_again(
    mlflow: BadMlflow, tmp_path: Path, trigger: Any, fault: str
) -> None:
    world = Unsaid(tmp_path, mlflow, trigger)
    world.users.failure_rates["7"] = 0.5
    while "7" not in world.state.rejected:
        world.mlflow.faults[""] = ALL_FAULTS[fault]
        world.tick()
    world.target.shifts.clear()

    world.tick()
    assert "7" in world.state.rejected

    world.mlflow.faults.clear()
    world.tick(5)
    assert world.target.traffic == Traffic.all_to("6")
    assert not any(shift.percent("7") for shift in world.target.shifts)
    assert world.mlflow.aliases == {"champion": "6"}
    assert world.outcomes == ["promoted", "rolled_back"]


@pytest.mark.parametrize("fault", ["nothing", "an empty object", "another shape"])
@pytest.mark.parametrize(
    ("trigger", "call"),
    [(ALIAS, "registered-models/alias"), (STAGE, "model-versions/transition-stage")],
)
def test_nor_is_it_when_mlflow_only_says_that_it_has_cleared_the_request(
    mlflow: BadMlflow, tmp_path: Path, trigger: AliasTrigger | StageTrigger, call: str, fault: str
) -> None:
    world = Unsaid(tmp_path, mlflow, trigger)
    world.users.failure_rates["7"] = 0.5
    mlflow.faults[call] = CONTENT_FAULTS[fault]
    while "7" not in world.state.rejected:
        world.tick()
    world.target.shifts.clear()

    world.tick(3)
    mlflow.faults.clear()
    world.tick(5)

    assert world.target.traffic == Traffic.all_to("6")
    assert not any(shift.percent("7") for shift in world.target.shifts)
    assert world.outcomes == ["promoted", "rolled_back"]
