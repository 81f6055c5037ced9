"""Where does an endpoint stand, in words? The one summary that `status`, `watch` and the demo print. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.gap import step_of, version_of
from deploy_targets.rollout.pause import reason_of, word_of
from deploy_targets.rollout.state import EndpointState, Phase
from deploy_targets.target import Observed, Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One endpoint at one moment. Weights are integer percent by version."""

    endpoint: str
    model: str
    serving: str | None
    previous: str | None
    challenger: str | None
    phase: str
    weight: int | None
    """The challenger's wanted weight; None when nothing is under way."""
    verdict: str
    hold: str
    """An operator's word against moving more requests to any challenger; empty without one."""
    experiment: str
    """The one under way, and what waits for its end; empty without one."""
    traffic: dict[str, int] | None
    """As the target says; None when it does not answer."""
    revisions: dict[str, str]
    turned_down: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        """For people: a headline, then what is worth knowing."""
        serving = "nothing" if self.serving is None else f"v{self.serving}"
        told = [f"{self.endpoint}: {self.model} {serving} serves"]
        if self.challenger is not None:
            at = "" if self.weight is None else f" at {self.weight} %"
            told += [f"  v{self.challenger} is {self.phase}{at}", f"  {self.verdict}"]
        if self.experiment:
            told.append(f"  {self.experiment}")
        if self.hold:
            told.append(f"  {self.hold}")
        if self.traffic is None:
            told.append("  traffic: the target does not answer")
        else:
            shares = ", ".join(f"v{version} {weight} %" for version, weight in self.traffic.items())
            told.append(f"  traffic: {shares or 'none'}")
        told += [f"  v{version}: {readiness}" for version, readiness in self.revisions.items()]
        told += [f"  v{version} turned down: {why}" for version, why in self.turned_down.items()]
        return tuple(told)


def summarise(endpoint: Endpoint, state: EndpointState, observed: Observed | None) -> Status:
    """The status of `endpoint`; `observed` is None when its target did not answer."""
    rollout = state.rollout
    weight = None
    if rollout is not None:
        weight = {
            Phase.WARMING: 0,
            Phase.STEPPING: step_of(endpoint, rollout).weight,
            Phase.COMPLETING: 100,
        }[rollout.phase]
    phase = "idle" if rollout is None else rollout.phase.value
    if state.override is not None:
        phase = "going back"
    revisions: Mapping[str, Revision] = {} if observed is None else observed.revisions
    return Status(
        endpoint=endpoint.name,
        model=endpoint.model,
        serving=version_of(state.serving),
        previous=version_of(state.previous),
        challenger=None if rollout is None else rollout.challenger.version,
        phase=phase,
        weight=weight,
        verdict=state.serving_reason if rollout is None else reason_of(rollout),
        hold="" if state.hold is None else word_of(state.hold),
        experiment=_experiment_in_words(state),
        traffic=None if observed is None else dict(observed.traffic.weights),
        revisions={
            version: f"{revision.readiness}{f' ({revision.reason})' if revision.reason else ''}"
            for version, revision in revisions.items()
        },
        turned_down=dict(state.rejected),
    )


def _experiment_in_words(state: EndpointState) -> str:
    if state.experiment is None:
        return ""
    asked = state.asked
    waits = "" if asked is None else f"; v{asked.version} is asked for and waits for its end"
    return state.experiment.line() + waits
