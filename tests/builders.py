"""Values for tests, sensible unless said otherwise: `a_release(version="7")`."""

from datetime import UTC, datetime, timedelta
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.state import (
    Counts,
    EndpointState,
    Observation,
    Phase,
    RolloutState,
)
from deploy_targets.rollout_policy import RolloutPolicy
from registry.gate import Champion, Gate, GateResult, Margins, decide
from registry.release import (
    DIGEST_TAG,
    GATE_TAG,
    SCORECARD_TAG,
    Digest,
    ModelVersion,
    Release,
)
from registry.scorecard import Kind, Score, Scorecard

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def a_digest(version: str) -> Digest:
    return Digest("sha256:" + version.rjust(64, "0"))


def a_release(version: str = "7") -> Release:
    return Release(
        model="smollm2",
        version=version,
        source=f"s3://shipway/models/{version}",
        digest=a_digest(version),
    )


def a_scorecard(
    *, loss: float = 3.0, right: int = 60, windows: int = 10, asked: int = 80, evaluation: str = "e"
) -> Scorecard:
    """Each window with the same loss, and `right` of the questions answered."""
    scores = {
        "perplexity": Score.of(Kind.PERPLEXITY, [loss] * windows),
        "task": Score.of(Kind.ACCURACY, [1.0] * right + [0.0] * (asked - right)),
    }
    return Scorecard(evaluation=evaluation, scores=scores)


def gate_tags(
    card: Scorecard | None = None,
    *,
    passed: bool = True,
    reasons: tuple[str, ...] = (),
    champion: Champion | None = None,
) -> dict[str, str]:
    """What `version` writes of a gate that was decided so, whatever the scores say, and of the scores."""
    card, base = card or a_scorecard(), a_scorecard()
    decided = decide(card, base=base, champion=champion, margins=Margins()).result.numbers
    result = GateResult(passed=passed, reasons=reasons, numbers=decided)
    gate = Gate(result=result, margins=Margins(), base=base, champion=champion)
    return {GATE_TAG: gate.to_json(), SCORECARD_TAG: card.to_json()}


def a_version(
    version: str = "7",
    *,
    passed: bool = True,
    reasons: tuple[str, ...] = (),
    stage: str = "None",
    updated_ms: int = 0,
    tags: dict[str, str] | None = None,
) -> ModelVersion:
    return ModelVersion(
        model="smollm2",
        version=version,
        source=f"s3://shipway/models/{version}",
        stage=stage,
        updated_ms=updated_ms,
        tags={
            DIGEST_TAG: a_digest(version),
            **gate_tags(passed=passed, reasons=reasons),
            **(tags or {}),
        },
    )


def an_endpoint(**rollout: object) -> Endpoint:
    """Steps of 5, 25 and 50 % without dwell, 30 challenger requests to be promoted, no time to drain or settle."""
    policy = {
        "steps": [{"weight": weight, "dwell_s": 0} for weight in (5, 25, 50)],
        "promote": {"by": "exposure", "requests": 30},
        "drain_s": 0,
        "settle_s": 0,
        **rollout,
    }
    return Endpoint(name="chat", model="smollm2", rollout=RolloutPolicy.model_validate(policy))


def a_shadowed_endpoint(**rollout: object) -> Endpoint:
    """The same, whose guard mirrors requests; its steps may begin at weight 0."""
    values = {**an_endpoint().rollout.model_dump(exclude_unset=True), **rollout}
    return Endpoint.model_validate(
        {"name": "chat", "model": "smollm2", "rollout": values, "guard": {"shadow": {}}}
    )


GATEWAY = {"name": "llm", "namespace": "gateways", "hostname": "chat.example.com"}


def a_ray_endpoint(**changes: Any) -> Endpoint:
    """On KubeRay, with a Gateway; `changes` replace whole parts of the endpoint file."""
    kubernetes = {"namespace": "llm", "image": "engine:1", "gateway": GATEWAY}
    values = {
        "name": "chat",
        "model": "smollm2",
        "target": "ray-serve",
        "kubernetes": kubernetes,
        **changes,
    }
    return Endpoint.model_validate(values)


def a_triton_endpoint(**changes: Any) -> Endpoint:
    """On KServe in Standard mode, with a Gateway; `changes` replace whole parts of the endpoint file."""
    kubernetes = {"namespace": "llm", "gateway": GATEWAY}
    values = {
        "name": "chat",
        "model": "smollm2",
        "target": "triton",
        "kubernetes": kubernetes,
        **changes,
    }
    return Endpoint.model_validate(values)


def a_knative_endpoint(**changes: Any) -> Endpoint:
    """On KServe in Knative mode, which splits the requests itself."""
    values = {"kubernetes": {"namespace": "llm"}, "triton": {"mode": "Knative"}, **changes}
    return a_triton_endpoint(**values)


def a_state(serving: str | None = "6") -> EndpointState:
    release = None if serving is None else a_release(serving)
    return EndpointState(endpoint="chat", serving=release, settled_champion=serving)


def an_observation(**counts: tuple[int, int]) -> Observation:
    """`an_observation(v6=(95, 1), v7=(5, 0))`: requests and errors by version."""
    return Observation(
        seconds=10,
        increments={
            name.removeprefix("v"): Counts(requests=requests, errors=errors)
            for name, (requests, errors) in counts.items()
        },
    )


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def an_exposed_rollout(**changes: Any) -> RolloutState:
    """v7 at the first step of its way from v6, exposed since noon."""
    values: dict[str, Any] = {
        "id": "chat-v7",
        "champion": "6",
        "challenger": a_release("7"),
        "phase": Phase.STEPPING,
        "started": NOON,
        "phase_since": NOON,
        "exposed_since": NOON,
        "seen_weights": {"6": 95, "7": 5},
        "seen_since": NOON,
    }
    return RolloutState(**{**values, **changes})
