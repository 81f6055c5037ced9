"""The guard put together: what is read and checked before anything is served, and the two apps that are served then."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.types import ASGIApp

from deploy_targets.declared import faults_of
from deploy_targets.guard.answer_cache import AnswerCache, store_of
from deploy_targets.guard.answer_judge import Judged
from deploy_targets.guard.answered import answers_of
from deploy_targets.guard.app import admin_app, admission, guard_app
from deploy_targets.guard.asides import asides_of
from deploy_targets.guard.cache_store import CacheStore
from deploy_targets.guard.chat import Chat
from deploy_targets.guard.cors import for_origins
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.errors import REFUSALS, PolicyUnusable
from deploy_targets.guard.judging import Judging
from deploy_targets.guard.key_file import KeyFile
from deploy_targets.guard.limit_store import LimitStore
from deploy_targets.guard.rate_limit import RateLimiter
from deploy_targets.guard.recording import Recording, recording_of
from deploy_targets.guard.second_try import SecondTries
from deploy_targets.guard.settings import GuardSettings
from deploy_targets.guard.steps import Steps, steps_of
from deploy_targets.guard.sticky import SeenUsers, Sticky
from deploy_targets.guard.upstream import Upstream, upstream_session
from deploy_targets.guard_policy import GuardPolicy, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What can be known to be wrong before the first request."""

    settings: GuardSettings
    policy: GuardPolicy
    steps: Steps
    keys: KeyFile | None
    """None lets anybody in."""
    kept: CacheStore | None
    """Where answers are kept to be given again."""
    recording: Recording | None
    """Where prompts and answers are recorded, and behind which rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What is served."""

    front: ASGIApp
    """For clients."""
    back: ASGIApp
    """For the operator and the rollout."""


def prepare(settings: GuardSettings) -> Prepared:
    """Reads keys and policy.

    Raises:
        KeyFileInvalid: the keys cannot be read.
        PolicyUnusable: the policy cannot be read, or not be kept with these settings.
    """
    keys = None
    if settings.auth != "none" and settings.keys_file is not None:
        keys = KeyFile(settings.keys_file)
        keys.ring()
    try:
        policy = settings.policy()
    except OSError as error:
        message = f"The policy file {settings.policy_file} cannot be read ({error.strerror})."
        raise PolicyUnusable(message) from error
    except ValidationError as error:
        message = f"The policy file {settings.policy_file} is not valid:\n{faults_of(error)}"
        raise PolicyUnusable(message) from error
    return Prepared(
        settings=settings,
        policy=policy,
        steps=steps_of(policy),
        keys=keys,
        kept=store_of(policy.cache, endpoint=settings.endpoint, redis_url=settings.redis),
        recording=recording_of(policy, settings.spool_folder),
    )


@asynccontextmanager
async def composed(
    made: Prepared,
    *,
    judged: Judged | None = None,
    cache_clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Guard]:
    """The apps, until the end of the block; what is under way aside from requests is cancelled then.

    `judged` is told what a judge model says, in the place of the counters.
    """
    settings, policy, endpoint = made.settings, made.policy, made.settings.endpoint
    registry = CollectorRegistry()
    rules = (*REFUSALS, *Limits.model_fields, *made.steps.rules)
    counters = Counters(registry, endpoint=endpoint, rules=rules)
    store = LimitStore(settings.redis, lost=counters.lost)
    answers = answers_of(settings.redis, endpoint=endpoint, lost=counters.lost)
    judging = Judging(policy.quality, made.steps.signs, counters, answers)
    seen = SeenUsers(endpoint=endpoint, redis_url=settings.redis, lost=counters.lost)
    cache = None
    async with AsyncExitStack() as stack:
        if policy.cache is not None and made.kept is not None:
            cache = AnswerCache(
                policy.cache,
                made.kept,
                endpoint=endpoint,
                whole_policy=policy.document(),
                told=counters.cached,
                clock=cache_clock,
            )
            await stack.enter_async_context(aclosing(made.kept))
        for one in (store, answers, judging, seen):
            await stack.enter_async_context(aclosing(one))
        session = await stack.enter_async_context(upstream_session(settings.upstream_host))
        upstream = Upstream(session, settings.upstream_url, timeout_s=settings.timeout_s)
        asides = await stack.enter_async_context(
            asides_of(
                policy,
                endpoint=endpoint,
                protocol=settings.protocol,
                upstream=upstream,
                counters=counters,
                registry=registry,
                judge_key=settings.judge_key,
                judged=judged or counters.judged,
                recording=made.recording,
            )
        )
        chat = Chat(
            endpoint=endpoint,
            admit=admission(made.keys, endpoint=endpoint),
            steps=asides.around(made.steps),
            limiter=RateLimiter(
                policy, store, endpoint=endpoint, longest_s=settings.timeout_s + settings.drain_s
            ),
            upstream=upstream,
            second_tries=SecondTries(counters, timeout_s=settings.timeout_s),
            protocol=settings.protocol,
            counters=counters,
            judging=judging,
            cache=cache,
            sticky=policy.sticky and Sticky(policy=policy.sticky, endpoint=endpoint, seen=seen),
        )
        yield Guard(
            front=for_origins(guard_app(chat, model=settings.model), policy.cors_origins),
            back=admin_app(registry, keys=made.keys, more=asides.routes),
        )
