"""The rules of a verdict, as a user declares them: in an endpoint's `rollout`, or in a policy file of `shipway judge`.

Rates and tolerances are shares between 0 and 1, absolute: a tolerance of 0.02 is two points. What contradicts itself
is refused here, when the file is read. How the rules are turned into tests is `rollout.judge`'s business.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from deploy_targets.declared import Declared

Rate = Annotated[float, Field(ge=1e-12, lt=0.5)]
Share = Annotated[float, Field(ge=0, lt=1)]
Limit = Annotated[float, Field(gt=0, lt=1)]


class Exposure(Declared):
    """Promote after this many challenger requests without evidence of harm."""

    by: Literal["exposure"] = "exposure"
    """The rule's name."""
    requests: Annotated[int, Field(ge=1)] = 1000
    """How many, over all steps."""


class Claim(Declared):
    """Promote once every metric is shown to be worse by less than its tolerance."""

    by: Literal["claim"] = "claim"
    """The rule's name."""


class Metric(Declared):
    """What is asked of one metric; in all of them more is worse."""

    tolerance: Share = 0.02
    """What a promotion by claim must rule out: worse than the champion by this much."""
    rollback_margin: Share = 0.0
    """Rolling back needs evidence of being worse than the champion by more than this."""


class ErrorsMetric(Metric):
    """Requests that a version failed, among all."""

    limit: Limit = 0.05
    """The share that a first release, which has no champion beside it, may not exceed."""


Quantile = Annotated[float, Field(gt=0, lt=1)]


class LatencyMetric(Metric):
    """Requests that took longer than the objective, among all."""

    slo_s: Annotated[float, Field(gt=0)]
    """The objective, in seconds. It must be a bucket bound of the histogram that is observed."""
    tolerance: Share = 0.05
    """What a promotion by claim must rule out: worse than the champion by this much."""
    limit: Limit | None = None
    """The share that a first release may not exceed; without it the metric is not judged there."""
    quantiles: tuple[Quantile, ...] = (0.5, 0.95)
    """Quantiles that a verdict tells of both versions, as confidence sequences. They decide nothing."""


class QualityMetric(Metric):
    """Answers that were judged bad, among those that were judged."""

    tolerance: Share = 0.05
    """What a promotion by claim must rule out: worse than the champion by this much."""
    limit: Limit | None = None
    """The share that a first release may not exceed; without it quality is not judged there."""


class CostMetric(Metric):
    """The mean cost of a request, as a share of the most that one can cost."""

    max_per_request_micros: Annotated[float, Field(gt=0)]
    """The most that one request can cost, in millionths of the currency. An interval that exceeds it is held."""
    tolerance: Share = 0.1
    """What a promotion by claim must rule out: dearer than the champion by this share of `max_per_request_micros`."""
    limit: Limit | None = None
    """The share of `max_per_request_micros` that a first release may not exceed; without it cost is not judged there."""


AnyMetric = ErrorsMetric | LatencyMetric | QualityMetric | CostMetric

TIMED = ("latency", "first_token", "per_token")
"""The metrics that are about time: each from a histogram of its own."""


class Metrics(Declared):
    """What is judged: each metric that is given. The rate of false rollbacks is for all of them together."""

    errors: ErrorsMetric | None = ErrorsMetric()
    """Requests that failed. Judged unless null is written down."""
    latency: LatencyMetric | None = None
    """Requests that took longer than an objective."""
    first_token: LatencyMetric | None = None
    """Requests whose first token took longer than an objective."""
    per_token: LatencyMetric | None = None
    """Requests whose tokens after the first took longer than an objective each, on average."""
    quality: QualityMetric | None = None
    """Answers that were judged bad."""
    cost: CostMetric | None = None
    """What requests cost."""

    def given(self) -> dict[str, AnyMetric]:
        """The metrics that are judged, by name, in the order of this class."""
        named = {
            "errors": self.errors,
            **self.timed(),
            "quality": self.quality,
            "cost": self.cost,
        }
        return {name: metric for name, metric in named.items() if metric is not None}

    def timed(self) -> dict[str, LatencyMetric]:
        """Those that are about time, by name."""
        named = {name: getattr(self, name) for name in TIMED}
        return {name: metric for name, metric in named.items() if metric is not None}


class JudgePolicy(Declared):
    """The rules of a verdict."""

    false_rollback_rate: Rate = 0.01
    """The chance, over a whole rollout, of rolling back a challenger that is not worse. Split evenly over the metrics."""
    false_promotion_rate: Rate = 0.05
    """The chance, over a whole rollout, of promoting by claim a challenger that is worse by its tolerance or more."""
    bursts: bool = False
    """Failures of one version come in bursts: judge by tests that hold then, and need more requests."""
    time_limit_s: Annotated[float, Field(gt=0)] = 36_000
    """From the first weight. Past it the verdict is inconclusive."""
    on_inconclusive: Literal["roll_back", "wait"] = "roll_back"
    """What follows when the time limit has passed without a decision."""
    metrics: Metrics = Metrics()
    promote: Annotated[Claim | Exposure, Field(discriminator="by")] = Claim()
    """What a promotion needs: proof, or a number of requests without evidence of harm."""

    @model_validator(mode="after")
    def _can_be_decided(self) -> Self:
        given = self.metrics.given()
        if not given:
            message = (
                "no metric is left to judge by; leave errors in, or give latency, quality or cost"
            )
            raise ValueError(message)
        for name, metric in given.items():
            if not isinstance(self.promote, Claim):
                continue
            if metric.tolerance == 0:
                message = (
                    f"metrics.{name}.tolerance is 0, and no number of requests can prove that a challenger is not worse "
                    "by even the least; give a tolerance above 0, or promote: {by: exposure, requests: N}"
                )
                raise ValueError(message)
            if metric.rollback_margin > metric.tolerance:
                message = (
                    f"metrics.{name}.rollback_margin is above its tolerance, so a challenger between the two could be "
                    "neither promoted nor rolled back; lower rollback_margin or raise tolerance"
                )
                raise ValueError(message)
        return self
