"""A verdict in words: every number that it rests on, so that a person can follow it. Pure; the rule is `judge.decide`."""

import math
from collections.abc import Sequence

from deploy_targets.judge_policy import Claim, Exposure, JudgePolicy
from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.quantiles import QuantileReading, quantiles_in_words
from deploy_targets.rollout.sequential import Table
from deploy_targets.rollout.state import Decision, Reading

_LARGEST = 700.0
"""The largest logarithm whose exponential is a float."""


def explain(  # noqa: PLR0913 - a verdict has these parts
    decision: Decision,
    decider: ev.MetricTest | None,
    tests: Sequence[ev.MetricTest],
    memories: Sequence[ev.Memory],
    policy: JudgePolicy,
    rule: Claim | Exposure | None,
    *,
    requests: int,
    seconds: float,
    quantiles: Sequence[QuantileReading],
) -> str:
    """The decision's reason; `memories` are of one run. The metric that decided comes first."""
    told = {
        test.name: _metric_in_words(
            test, memory, policy, [one for one in quantiles if one.metric == test.name]
        )
        for test, memory in zip(tests, memories, strict=True)
    }
    names = sorted(told, key=lambda name: decider is None or name != decider.name)
    several = len(told) > 1
    sentences = [f"{name}: {told[name]}" if several else told[name] for name in names]
    numbers = ". ".join(sentences)
    if tests and not any(bool(ev.has_data(memory)[0]) for memory in memories):
        numbers = f"nothing to compare yet: no interval has numbers of every version. {numbers}"
    if decision is Decision.ROLL_BACK:
        return numbers
    if rule is None:
        return (
            "a first release, with no champion to compare it with: it answered every smoke prompt"
        )
    if isinstance(rule, Exposure):
        progress = f"{requests:,} of {rule.requests:,} challenger requests"
        if decision is Decision.PROMOTE:
            progress = f"{requests:,} challenger requests without evidence of harm, {rule.requests:,} were asked for"
        elif unmeasured := _unmeasured(tests, memories):
            progress += f", and no data on {unmeasured}"
    else:
        progress = _claims_in_words(tests, memories, policy)
    if decision is Decision.INCONCLUSIVE:
        progress += f" in {seconds:,.0f} s, the time limit"
    return f"{numbers}; {progress}"


def reading(test: ev.MetricTest, memory: ev.Memory) -> Reading:
    """Where the sequences of one run stand."""
    low, high = _known(ev.bounds(test, memory))
    ratio_low, ratio_high = (None, None)
    if test.limit is None:
        ratio_low, ratio_high = _known(ev.bounds(test, memory, ratio=True))
    return Reading(
        metric=test.name,
        e_value=math.exp(min(float(memory.peak[0]), _LARGEST)),
        bound=test.harm_bound,
        low=low,
        high=high,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
    )


def _known(ends: ev.Bounds) -> tuple[float | None, float | None]:
    """The first run's ends; None where one is not known yet."""
    low, high = float(ends.low[0]), float(ends.high[0])
    return low if math.isfinite(low) else None, high if math.isfinite(high) else None


def _metric_in_words(
    test: ev.MetricTest,
    memory: ev.Memory,
    policy: JudgePolicy,
    quantiles: Sequence[QuantileReading],
) -> str:
    totals = Table(*(float(part) for part in memory.totals[0]))  # pyright: ignore[reportArgumentType] - one run's numbers in the place of arrays
    counts = _counts_in_words(test, totals, policy)
    seen = reading(test, memory)
    sign = "≥" if seen.e_value >= seen.bound else "<"
    against = ""
    if seen.e_value >= seen.bound:
        against = f"more than {test.limit:.1%}: " if test.limit is not None else "worse: "
    elif test.margin:
        against = f"worse by more than {_amount(test.margin, test, policy)}: "
    evidence = f"{against}e-value {_short(seen.e_value)} {sign} {_short(seen.bound)}"
    interval = _interval_in_words(test, seen, policy)
    parts = (counts, evidence, interval, quantiles_in_words(quantiles))
    return "; ".join(part for part in parts if part)


def _counts_in_words(test: ev.MetricTest, totals: Table, policy: JudgePolicy) -> str:
    sides = [("challenger", totals.challenger_bad, totals.challenger_n)]
    if test.limit is None:
        sides.append(("champion", totals.champion_bad, totals.champion_n))
    if test.name == "cost" and policy.metrics.cost is not None:
        top = policy.metrics.cost.max_per_request_micros
        means = [f"{side} {bad * top / max(n, 1):,.4g} over {n:,.0f}" for side, bad, n in sides]
        return f"micros a request: {', '.join(means)}"
    noun = {"errors": " errors", "quality": " bad answers"}.get(test.name, "")
    timed = policy.metrics.timed()
    if test.name in timed:
        noun = f" slower than {timed[test.name].slo_s:g} s"
    nouns = (noun, "")
    counts = (
        f"{side} {bad:,.0f}{noun} in {n:,.0f}"
        for (side, bad, n), noun in zip(sides, nouns, strict=False)
    )
    return ", ".join(counts)


def _interval_in_words(test: ev.MetricTest, seen: Reading, policy: JudgePolicy) -> str:
    what = "increase" if test.limit is None else "rate"
    scale, unit = _unit(test, policy)
    told = _range(seen.low, seen.high, scale=scale, form=".1f")
    if not told:
        return ""
    times = _range(seen.ratio_low, seen.ratio_high, scale=1, form="g")
    return f"{what} {told} {unit}" + (f" ({times} times)" if times else "")


def _range(low: float | None, high: float | None, *, scale: float, form: str) -> str:
    """`between 2.1 and 7.0`; empty where neither end is known."""
    if low is not None and high is not None and low > high:
        # Both ends hold, so it was no constant one.
        return f"at one time above {low * scale:{form}}, at another below {high * scale:{form}}"
    if low is not None and high is not None:
        return f"between {low * scale:{form}} and {high * scale:{form}}"
    if low is not None:
        return f"above {low * scale:{form}}"
    return "" if high is None else f"below {high * scale:{form}}"


def _claims_in_words(
    tests: Sequence[ev.MetricTest], memories: Sequence[ev.Memory], policy: JudgePolicy
) -> str:
    """What is proven and what is not."""
    shown: list[str] = []
    missing: list[str] = []
    for test, memory in zip(tests, memories, strict=True):
        words = (
            f"{test.name} below {test.limit:.1%}"
            if test.limit is not None
            else f"{test.name} worse by less than {_amount(test.tolerance, test, policy)}"
        )
        (shown if bool(ev.is_claimed(test, memory)[0]) else missing).append(words)
    parts = [f"shown: {', '.join(shown)}"] if shown else []
    parts += [f"not shown yet: {', '.join(missing)}"] if missing else []
    return "; ".join(parts)


def _unmeasured(tests: Sequence[ev.MetricTest], memories: Sequence[ev.Memory]) -> str:
    pairs = zip(tests, memories, strict=True)
    return ", ".join(test.name for test, memory in pairs if not bool(ev.has_data(memory)[0]))


def _amount(share: float, test: ev.MetricTest, policy: JudgePolicy) -> str:
    scale, unit = _unit(test, policy)
    return f"{share * scale:g} {unit}"


def _unit(test: ev.MetricTest, policy: JudgePolicy) -> tuple[float, str]:
    """What a share is multiplied by to be told, and the unit of that."""
    if test.name == "cost" and policy.metrics.cost is not None:
        return policy.metrics.cost.max_per_request_micros, "micros"
    return 100.0, "points" if test.limit is None else "percent"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"  # noqa: PLR2004 - two digits are enough below ten
