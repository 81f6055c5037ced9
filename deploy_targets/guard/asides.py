"""What a policy has done aside from requests, put together.

Watches around the steps of an answer, routes of the admin side, and the tasks behind them.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.routing import Route

from deploy_targets.guard.answer_judge import Judged, ModelJudge, SampledJudge
from deploy_targets.guard.aside import Aside
from deploy_targets.guard.counters import Counters
from deploy_targets.guard.protocol import ProtocolName
from deploy_targets.guard.recording import Recorder, Recording
from deploy_targets.guard.shadow import Shadow, ShadowCounts
from deploy_targets.guard.shadow_target import ShadowTarget
from deploy_targets.guard.steps import FilterMaker, Steps
from deploy_targets.guard.upstream import Upstream, upstream_session
from deploy_targets.guard_policy import GuardPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Asides:
    """Empty without a policy that asks for any."""

    first: tuple[FilterMaker, ...] = ()
    """Watches of answers as versions give them."""
    last: tuple[FilterMaker, ...] = ()
    """Watches of answers as clients get them."""
    routes: tuple[Route, ...] = ()
    """Of the admin side."""

    def around(self, steps: Steps) -> Steps:
        """Those steps, watched."""
        return replace(steps, filters=(*self.first, *steps.filters, *self.last))


@asynccontextmanager
async def asides_of(  # noqa: PLR0913 - what the parts need, by name
    policy: GuardPolicy,
    *,
    endpoint: str,
    protocol: ProtocolName,
    upstream: Upstream,
    counters: Counters,
    registry: CollectorRegistry,
    judge_key: SecretStr | None,
    judged: Judged,
    recording: Recording | None,
) -> AsyncGenerator[Asides]:
    """What this policy asks for; what is under way at the end of the block is cancelled.

    `judged` is told of each answer that a judge has judged. `recording` is there where the policy records.
    """
    first: list[FilterMaker] = []
    last: list[FilterMaker] = []
    routes: list[Route] = []
    async with AsyncExitStack() as stack:
        aside = Aside()
        if policy.shadow is not None:
            target = ShadowTarget()
            shadow = Shadow(
                policy.shadow,
                policy,
                endpoint=endpoint,
                protocol=protocol,
                upstream=upstream,
                target=target,
                counters=counters,
                counts=ShadowCounts(registry, endpoint=endpoint),
                aside=aside,
            )
            first.append(shadow.watch)
            routes.append(target.route())
        if policy.judge is not None:
            session = await stack.enter_async_context(
                upstream_session(token="" if judge_key is None else judge_key.get_secret_value())
            )
            asked = Upstream(session, policy.judge.url, timeout_s=policy.judge.timeout_s)
            judge = SampledJudge(
                policy.judge,
                ModelJudge(asked, model=policy.judge.model),
                registry,
                endpoint=endpoint,
                aside=aside,
                judged=judged,
            )
            last.append(judge.watch)
        if recording is not None:
            recorder = Recorder(recording, registry, endpoint=endpoint, aside=aside)
            stack.push_async_callback(recorder.close)
            aside.begin(recorder.seal_in_time())
            last.append(recorder.watch)
        # Entered last, so that it is left first: no task outlives what it uses.
        await stack.enter_async_context(aside)
        yield Asides(first=tuple(first), last=tuple(last), routes=tuple(routes))
