"""`shipway plan-canary`: which share to give a canary, by simulating the scenario at each of them. Pure.

At a small share few users meet a bad version, but it takes longer to find; at a large one the other way round. For each
share: how surely, how soon and after how many requests a version as bad as the scenario's is rolled back, and how soon
one that is like its champion is promoted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from deploy_targets.rollout.scenario import RampStep, Scenario
from deploy_targets.rollout.simulate import simulate
from registry.errors import BadInput

SHARES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0)
"""Percent. Beyond 50 the champion, which is the control, would have the smaller part."""

_SURE = 0.95
"""A verdict counts as reached in time when this part of the rollouts gets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtShare:
    """How the policy fares at one share. Requests are the endpoint's, of both versions; times are in seconds."""

    share: float
    """The challenger's, in percent."""
    found: float
    """The part of the rollouts in which the worse challenger is rolled back by evidence, in time."""
    requests: float | None
    """Until then, mean."""
    seconds: float | None
    seconds_p95: float | None
    exposed: float
    """Requests that the worse challenger gets in a rollout, mean over all of them."""
    exposed_p95: float
    promoted: float
    """The part of the rollouts in which a challenger like its champion is promoted in time."""
    promotion_seconds: float | None
    promotion_seconds_p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPlan:
    """All shares, the best of them, and what is wrong with the policy."""

    shares: tuple[AtShare, ...]
    best: float | None
    """The share that finds the worse challenger soonest, of those that find it surely and within the exposure limit."""
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield "share   worse: rolled back, after, 95 %      challenger requests, 95 %   alike: promoted, after, 95 %"
        for one in self.shares:
            yield (
                f"{one.share:4g} %  {one.found:17.1%} {_time(one.seconds):>6} {_time(one.seconds_p95):>6} "
                f"{one.exposed:19,.0f} {one.exposed_p95:9,.0f} "
                f"{one.promoted:14.1%} {_time(one.promotion_seconds):>8} {_time(one.promotion_seconds_p95):>6}"
            )
        yield "no share will do" if self.best is None else f"best share: {self.best:g} %"
        yield from (f"warning: {warning}" for warning in self.warnings)


def plan_canary(
    scenario: Scenario,
    *,
    shares: Sequence[float] = SHARES,
    max_exposed: float | None = None,
    runs: int,
    seed: int,
) -> CanaryPlan:
    """The plan for the scenario's policy, versions and traffic; its ramp is replaced by each share in turn.

    `max_exposed` is the number of requests that a worse challenger may get, in 95 % of the rollouts.

    Raises:
        BadInput: there is no champion to share traffic with, or the challenger is no worse than it.
    """
    if scenario.champion is None:
        message = "A first release has all the traffic, so there is no share to plan. Give the scenario a champion."
        raise BadInput(message)
    if simulate(scenario, runs=1, seed=seed)["wald"] is None:
        message = "The scenario's challenger is not worse in any counted metric. Say how bad a version must be found."
        raise BadInput(message)
    told = tuple(_at_share(scenario, share, runs=runs, seed=seed) for share in shares)
    allowed = [one for one in told if max_exposed is None or one.exposed_p95 <= max_exposed]
    good = [one for one in allowed if one.found >= _SURE and one.seconds is not None]
    best = min(good, key=lambda one: one.seconds or 0.0, default=None)
    return CanaryPlan(
        shares=told,
        best=None if best is None else best.share,
        warnings=tuple(_warnings(scenario, told, allowed, max_exposed)),
    )


def _at_share(scenario: Scenario, share: float, *, runs: int, seed: int) -> AtShare:
    there = scenario.model_copy(update={"ramp": (RampStep(weight=share),)})
    alike = there.model_copy(update={"challenger": scenario.champion})
    bad, good = (simulate(one, runs=runs, seed=seed) for one in (there, alike))
    rolled_back, promoted = bad["roll_back"], good["promote"]
    exposed = bad["exposure"]["challenger_requests"]
    requests, seconds = rolled_back["requests"], rolled_back["seconds"]
    until = promoted["seconds"]
    return AtShare(
        share=share,
        found=bad["rates"]["roll_back"],
        requests=requests and requests["mean"],
        seconds=seconds and seconds["mean"],
        seconds_p95=seconds and seconds["p95"],
        exposed=exposed["mean"],
        exposed_p95=exposed["p95"],
        promoted=good["rates"]["promote"],
        promotion_seconds=until and until["mean"],
        promotion_seconds_p95=until and until["p95"],
    )


def _warnings(
    scenario: Scenario,
    told: Sequence[AtShare],
    allowed: Sequence[AtShare],
    max_exposed: float | None,
) -> Iterator[str]:
    limit = f"{scenario.policy.time_limit_s:,.0f} s"
    sure = [one for one in told if one.found >= _SURE]
    if sure and max_exposed is not None and not any(one in allowed for one in sure):
        least = min(sure, key=lambda one: one.exposed_p95)
        yield (
            f"every share that finds the worse challenger surely lets more than {max_exposed:,.0f} requests meet it: "
            f"at least {least.exposed_p95:,.0f}, at {least.share:g} %"
        )
    if not sure:
        yield (
            f"this policy does not find such a challenger within {limit} at any share: at best in "
            f"{max(one.found for one in told):.0%} of the rollouts. Give it more time or traffic, or look for a larger effect"
        )
    if all(one.promoted < _SURE for one in told):
        yield (
            f"this policy does not promote a good challenger within {limit} at any share: at best in "
            f"{max(one.promoted for one in told):.0%} of the rollouts. Raise the tolerance or the time limit"
        )
    late = [one for one in sure if one.promoted < _SURE]
    if late and any(one.promoted >= _SURE for one in told):
        names = ", ".join(f"{one.share:g}" for one in late)
        yield f"at {names} % a good challenger is not promoted in time; let the steps rise beyond that"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - minutes read better then
