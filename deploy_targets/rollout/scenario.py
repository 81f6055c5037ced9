"""What is simulated: two versions as they really are, their traffic, and the policy that judges it.

Read from a YAML file by `parse_scenario`; `simulate` draws it.
"""

import math
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from deploy_targets.declared import Declared
from deploy_targets.judge_policy import Share
from deploy_targets.rollout.observations import PolicyFile, parse_declared

_MOST_REQUESTS = 100_000
_MOST_INTERVALS = 200_000
"""What a simulation works through in reasonable time and memory."""


class Latency(Declared):
    """A lognormal distribution of durations."""

    median_s: Annotated[float, Field(gt=0)]
    """Half of the requests take longer."""
    sigma: Annotated[float, Field(gt=0)] = 0.5
    """Of the logarithm."""

    def slower_than(self, seconds: float) -> float:
        """The share of requests that take longer."""
        return 0.5 * math.erfc(math.log(seconds / self.median_s) / (self.sigma * math.sqrt(2)))


class Cost(Declared):
    """Costs of single requests, millionths of the currency; cut off at 0 and at the policy's maximum."""

    mean_micros: Annotated[float, Field(ge=0)]
    """Of a request."""
    sd_micros: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation between requests."""


class Truth(Declared):
    """What a version is really like."""

    errors: Share = 0.0
    """The share of failed requests."""
    latency: Latency | None = None
    """How long requests take."""
    first_token: Latency | None = None
    """How long the first token takes."""
    per_token: Latency | None = None
    """How long each token after the first takes, on average over a request."""
    quality: Share | None = None
    """The share of bad answers."""
    cost: Cost | None = None
    """What requests cost."""


class RampStep(Declared):
    """A stretch of the rollout."""

    weight: Annotated[float, Field(gt=0, le=100)]
    """The challenger's share of requests, in percent."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """How long; the last step lasts until the end, and so does one that does not say."""
    rate_factor: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the rates of errors and bad answers of both versions in this stretch."""


class SimulatedPolicy(PolicyFile):
    """The policy of `shipway judge`; the names of the versions may be left out."""

    champion: str | None = "champion"
    """Its name; null for a first release."""
    challenger: str = "challenger"
    """Its name."""


class Scenario(Declared):
    """Two versions, their traffic, and the policy that judges it."""

    policy: SimulatedPolicy = SimulatedPolicy()
    """The rules that are tried."""
    champion: Truth | None = Truth(errors=0.01)
    """None for a first release; its policy then says `champion: null` too."""
    challenger: Truth
    """What is being released."""
    requests_per_s: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    """Of the endpoint; their number in an interval is Poisson."""
    interval_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Between two looks."""
    duration_s: Annotated[float, Field(gt=0)] | None = None
    """When the run is cut off without a verdict; the policy's time limit unless said otherwise."""
    ramp: Annotated[tuple[RampStep, ...], Field(min_length=1)] = (RampStep(weight=50),)
    """The weights, one after the other."""
    judged_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of answers whose quality is judged."""
    burst_size: Annotated[float, Field(ge=1)] = 1.0
    """Requests of one version come in groups of this mean (geometric), which fail together or not at all."""
    share_drift: Share = 0.0
    """The real share swings around the weight by this much of it, once in 100 intervals, each run in its own phase."""
    counter_resets: Share = 0.0
    """The chance that the counters begin again in an interval, which then says nothing."""
    gaps: Share = 0.0
    """The chance that one version's numbers of an interval are missing."""

    @model_validator(mode="after")
    def _fits_its_policy(self) -> Self:
        if (self.champion is None) != (self.policy.champion is None):
            message = (
                "champion is null in one place only; write it in the scenario and in its policy"
            )
            raise ValueError(message)
        for name in self.policy.metrics.given():
            for side, truth in (("champion", self.champion), ("challenger", self.challenger)):
                if truth is not None and getattr(truth, name) is None:
                    message = f"the policy judges {name}, so {side}.{name} is needed"
                    raise ValueError(message)
        if self.requests_per_s * self.interval_s > _MOST_REQUESTS:
            message = f"more than {_MOST_REQUESTS:,} requests in an interval; shorten interval_s"
            raise ValueError(message)
        if self._length_s / self.interval_s > _MOST_INTERVALS:
            message = f"more than {_MOST_INTERVALS:,} intervals; shorten duration_s, or lengthen interval_s"
            raise ValueError(message)
        return self

    @property
    def _length_s(self) -> float:
        return self.duration_s or self.policy.time_limit_s

    @property
    def steps(self) -> tuple[RampStep, ...]:
        """The ramp's step of each interval."""
        ends = np.cumsum([step.seconds or math.inf for step in self.ramp])
        count = math.ceil(self._length_s / self.interval_s)
        middles = (np.arange(count) + 0.5) * self.interval_s
        places: list[int] = np.searchsorted(ends, middles).tolist()
        return tuple(self.ramp[min(place, len(self.ramp) - 1)] for place in places)


def parse_scenario(text: str, *, origin: str) -> Scenario:
    """The scenario that the YAML `text` declares; see `parse_declared`."""
    return parse_declared(Scenario, text, what="scenario", origin=origin)
