"""What the guard does with requests and answers, as a user declares it: the endpoint file's `guard`.

The guard reads it as JSON from the file that SHIPWAY_GUARD_POLICY_FILE names, once, when it starts: a change is a restart
of the process on this machine and a rollout of the Deployment in a cluster, so that no request meets half of a policy.
A field is here only once it acts, and without any nothing is changed and nothing refused.

Money is in micros, millionths of the currency, as whole numbers.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from deploy_targets.aside_policy import AnswerJudgePolicy, RecordPolicy, ShadowPolicy
from deploy_targets.cache_policy import CachePolicy
from deploy_targets.declared import Count, Declared
from deploy_targets.filter_policy import InputPolicy, OutputPolicy
from deploy_targets.quality_policy import QualityPolicy

Micros = Annotated[int, Field(ge=0)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.\-\[\]:]+)$")]
"""Scheme, host and port as a browser spells them, or `*` for every page."""


class Limits(Declared):
    """What may be asked for; what is left out has no limit."""

    requests_per_minute: Count | None = None
    """In any 60 seconds; where Redis is not there to count, in about 60."""
    concurrent_requests: Count | None = None
    """Under way at once."""
    tokens_per_minute: Count | None = None
    """Of prompts and answers. An answer's are reserved before and settled afterwards."""
    micros_per_day: Count | None = None
    """What may be spent in a day, by UTC. Needs prices. Where it cannot be checked, nothing is let through."""

    def over(self, other: "Limits") -> "Limits":
        """These, and the other's where there is none."""
        own = self.model_dump(exclude_none=True)
        return Limits.model_validate({**other.model_dump(exclude_none=True), **own})


NO_LIMITS = Limits()


class LimitPolicy(Declared):
    """Limits for clients. A request must fit into its key's and the endpoint's."""

    key: Limits = NO_LIMITS
    """Of each key. What the key file says of a key goes before."""
    endpoint: Limits = NO_LIMITS
    """Of all keys together."""
    answer_tokens: Count = 256
    """Reserved for an answer where the request does not say how long it may be. The engines' own default."""


class Prices(Declared):
    """What a request costs: its tokens, and its time on the hardware."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """Of which the micros are millionths."""
    prompt_micros_per_million: Micros = 0
    """For a million tokens of prompts."""
    completion_micros_per_million: Micros = 0
    """For a million tokens of answers."""
    hardware_micros_per_hour: Mapping[str, Micros] = {}
    """For an hour of one device, by the name of its kind."""
    runs_on: str | None = None
    """Which of them a replica runs on; without it time costs nothing."""
    devices: Count = 1
    """How many of them one replica has."""
    requests_at_once: Count = 1
    """How many requests share them: a second of one costs that part of a second of the devices. `batching.max_size`
    where replicas are busy."""

    @model_validator(mode="after")
    def _has_a_price_for_what_it_runs_on(self) -> Self:
        if self.runs_on is not None and self.runs_on not in self.hardware_micros_per_hour:
            known = ", ".join(sorted(self.hardware_micros_per_hour)) or "none"
            message = f"runs_on is {self.runs_on!r}, which has no price in hardware_micros_per_hour (there: {known})"
            raise ValueError(message)
        return self

    @property
    def micros_per_device_hour(self) -> int:
        """Of all devices of one replica together; 0 where time costs nothing."""
        if self.runs_on is None:
            return 0
        return self.hardware_micros_per_hour[self.runs_on] * self.devices

    @property
    def are_set(self) -> bool:
        """Whether anything costs."""
        return bool(
            self.prompt_micros_per_million
            or self.completion_micros_per_million
            or self.micros_per_device_hour
        )


class StickyPolicy(Declared):
    """A user gets the same version again, for as long as the versions share the requests."""

    by: Literal["user", "key"] = "user"
    """`user`: what the request's field `user` says, or without one its header x-shipway-user; without either a request
    is shared out by chance. `key`: the name of its API key."""
    salt: str = ""
    """Mixed into the hash. Another one gives users other versions."""


class GuardPolicy(Declared):
    """How requests and answers are treated on their way."""

    input: InputPolicy | None = None
    """Which requests go on."""
    output: OutputPolicy | None = None
    """Which answers go out."""
    cache: CachePolicy | None = None
    """Which answers are given again."""
    quality: QualityPolicy | None = None
    """Which answers are bad, among all; without it their signals are counted and none is judged."""
    limits: LimitPolicy = LimitPolicy()
    prices: Prices = Prices()
    shadow: ShadowPolicy | None = None
    """What is asked of the challenger as well; without it nothing is."""
    judge: AnswerJudgePolicy | None = None
    """Which answers another model judges; without it none."""
    record: RecordPolicy | None = None
    """Which prompts and answers are kept, redacted; without it none. On this machine alone."""
    sticky: StickyPolicy | None = None
    """Who gets the same version again; without it each request is shared out by chance."""
    cors_origins: tuple[Origin, ...] = ()
    """Whose pages may ask from a browser, like `https://app.example.com`. They need a key all the same, and whoever opens
    such a page can read the one that it sends."""

    @model_validator(mode="after")
    def _an_answer_is_judged_once(self) -> Self:
        if self.quality is not None and self.judge is not None:
            message = "quality and judge would both judge the same answers; choose one of them"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _budgets_have_prices(self) -> Self:
        shadow = self.shadow
        if shadow is not None and shadow.micros_per_day is not None and not self.prices.are_set:
            message = "shadow: micros_per_day would never be reached, for nothing has a price; give prices, or leave it out"
            raise ValueError(message)
        budgets = (self.limits.key.micros_per_day, self.limits.endpoint.micros_per_day)
        if any(budgets) and not self.prices.are_set:
            message = "limits: micros_per_day would never be reached, for nothing has a price; give prices, or leave it out"
            raise ValueError(message)
        return self

    def document(self) -> str:
        """The file that the guard reads, as JSON in one line."""
        return self.model_dump_json(exclude_defaults=True)
