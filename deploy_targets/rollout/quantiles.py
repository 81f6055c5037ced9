"""Where a quantile of a latency lies, between the bounds of its histogram, at any moment one looks. Pure.

For reading only, no verdict rests on it: it takes the rollout's requests together, as if their distribution had not
changed meanwhile.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy_targets.judge_policy import LatencyMetric

_PRIOR = 20.0
"""How many requests the mixture's prior weighs. A guess; from 5 to 100 the ends hardly move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileReading:
    """One quantile of one version."""

    metric: str
    is_challengers: bool
    quantile: float
    low_s: float | None
    high_s: float | None
    """Between which bucket bounds it lies; None is not known yet, or beyond the last bound."""


def quantile_ends(
    within: Sequence[float], n: float, bounds: Sequence[float], *, quantile: float, alpha: float
) -> tuple[float | None, float | None]:
    """The bucket bounds between which the quantile lies, each end missed with probability at most `alpha` ever.

    `within` counts the requests, of `n` in all, that took at most each of the rising `bounds`. For a bound x, the
    requests within it are Bernoulli trials; a beta-binomial mixture against the rate `quantile` says that more than this
    share lies within x (the quantile is at most x), or less. Bounds are nested, so an end is wrong only if the one
    bound next to the quantile is.

    Source: Howard and Ramdas 2022, arXiv 1906.09712, section 3 (confidence sequences for one quantile by inverting
    those for a Bernoulli rate); the mixture is Robbins 1970.
    """
    low, high = None, None
    for bound, count in zip(bounds, within, strict=True):
        if n and _mixture_log_e(count, n, quantile) >= -math.log(alpha):
            if count < quantile * n:
                low = bound
            elif high is None:
                high = bound
    return low, high


def _mixture_log_e(count: float, n: float, rate: float) -> float:
    """Log of the likelihood of a beta mixture around `rate` over that of `rate` itself."""
    a, b = _PRIOR * rate, _PRIOR * (1 - rate)
    mixture = _log_beta(a + count, b + n - count) - _log_beta(a, b)
    return mixture - count * math.log(rate) - (n - count) * math.log1p(-rate)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def quantile_readings(
    name: str,
    metric: LatencyMetric,
    bounds: Sequence[float],
    *,
    champion: Sequence[float] | None,
    challenger: Sequence[float],
    alpha: float,
) -> Iterator[QuantileReading]:
    """The metric's quantiles of both versions, or of the challenger alone.

    `champion` and `challenger` count the requests within each of the rising `bounds`, the last of which is infinite.
    """
    finite = bounds[:-1]
    for within in (challenger, champion):
        if within is None:
            continue
        for quantile in metric.quantiles:
            ends = quantile_ends(within[:-1], within[-1], finite, quantile=quantile, alpha=alpha)
            yield QuantileReading(
                metric=name,
                is_challengers=within is challenger,
                quantile=quantile,
                low_s=ends[0],
                high_s=ends[1],
            )


def quantiles_in_words(readings: Sequence[QuantileReading]) -> str:
    """`p95 1 to 2 s, champion 0.5 to 1 s` for each quantile; empty without readings."""
    parts: list[str] = []
    for quantile in dict.fromkeys(one.quantile for one in readings):
        sides = sorted(
            (one for one in readings if one.quantile == quantile),
            key=lambda one: not one.is_challengers,
        )
        told = (("" if one.is_challengers else "champion ") + _range(one) for one in sides)
        parts.append(f"p{100 * quantile:g} {', '.join(told)}")
    return "; ".join(parts)


def _range(reading: QuantileReading) -> str:
    low, high = reading.low_s, reading.high_s
    if low is None and high is None:
        return "not known yet"
    if high is None:
        return f"above {low:g} s"
    return f"below {high:g} s" if low is None else f"{low:g} to {high:g} s"
