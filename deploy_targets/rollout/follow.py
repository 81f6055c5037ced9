"""What do people want? The state after reading the registry, and after an operator's rollback. Pure.

`check_model` refuses a state of another model, `adopt` is for a state that knows nothing, `follow_registry` reads the
request, `follow_override` carries out what an operator saved. All of them end a rollout in the same way, `end_rollout`,
and give a revision up for the same reasons, `failure_to_warm`. How a rollout moves by itself is `plan`'s.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.admission import Inspection, admit
from deploy_targets.rollout.experiment_state import ExperimentOutcome
from deploy_targets.rollout.gap import standing, version_of
from deploy_targets.rollout.state import Asked, EndedRollout, EndpointState, Outcome, RolloutState
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Observed, Readiness
from registry.errors import EndpointFileInvalid
from registry.promotion import (
    CHAMPION,
    RegistryFacts,
    StageTrigger,
    check_gate,
    read_request,
    withdrawn,
)
from registry.release import Refused, Release


def check_model(endpoint: Endpoint, state: EndpointState) -> None:
    """Refuses a state of another model: version 2 of this one is not version 2 of that one.

    Raises:
        EndpointFileInvalid: what serves is a version of another model than the endpoint names now.
    """
    serving = state.serving
    if serving is not None and serving.model != endpoint.model:
        message = (
            f"{serving} serves on endpoint {endpoint.name}, but the endpoint file now names model {endpoint.model}. "
            "Give that model an endpoint of its own, or name the old model again; nothing is touched until then."
        )
        raise EndpointFileInvalid(message)


def is_blank(state: EndpointState) -> bool:
    """Whether nothing is known of the endpoint: it is new, or its state was lost."""
    known = EndpointState(endpoint=state.endpoint, hold=state.hold, audit=state.audit)
    bare = replace(state, idle_since={}, serving_reason="", declared=None, disturbance="")
    return bare == known


def adopt(state: EndpointState, facts: RegistryFacts, observed: Observed) -> EndpointState:
    """A blank state that takes what has the traffic for serving, so that users notice nothing.

    That is the version with all of it, or the champion where several share it. Where it cannot be told to be a release,
    the state stays blank and says so.
    """
    weights = observed.traffic.weights
    if not is_blank(state) or not weights:
        return replace(state, serving_reason="") if is_blank(state) else state
    version = next(iter(weights)) if len(weights) == 1 else facts.aliases.get(CHAMPION, "")
    known = facts.versions.get(version)
    admitted = None if known is None else check_gate(known)
    if not isinstance(admitted, Release) or version not in weights:
        shares = ", ".join(f"v{one} {weight} %" for one, weight in weights.items())
        reason = (
            f"Shipway's state was lost, and requests go to {shares}, of which it cannot tell what should serve. Nothing is "
            f"touched. Set the alias {CHAMPION} on what should, or name it: `shipway rollback {state.endpoint} --to VERSION`."
        )
        return replace(state, serving_reason=reason)
    reason = "it had the traffic when Shipway first looked"
    settled = facts.aliases.get(CHAMPION)
    return replace(state, serving=admitted, serving_reason=reason, settled_champion=settled)


def follow_registry(
    endpoint: Endpoint,
    state: EndpointState,
    facts: RegistryFacts,
    inspection: Inspection | None,
    *,
    now: datetime,
) -> EndpointState:
    """The state after reading what the registry asks for: a rollout begun, replaced or withdrawn, a request refused.

    What could not be inspected waits, and nothing is deployed of it.
    """
    state = forget_withdrawn(endpoint, state, facts, now=now)
    state = replace(state, stage_before=_stages(endpoint, state, facts))
    if state.serving is not None and facts.aliases.get(CHAMPION) == state.serving.version:
        state = replace(state, settled_champion=state.serving.version)
    if state.override is not None:
        # The operator's word comes first; the request still stands when it has been carried out.
        return state
    asked = read_request(facts, endpoint.trigger, standing(state))
    under_way = state.rollout
    if under_way is not None and under_way.challenger.version != asked:
        outcome = Outcome.WITHDRAWN if asked is None else Outcome.SUPERSEDED
        reason = "its request was withdrawn" if asked is None else f"v{asked} was asked for instead"
        state = end_rollout(state, outcome, reason, now=now)
    if asked is None or state.rollout is not None:
        return replace(state, asked=None)
    since = now
    if state.experiment is not None:
        # It waits: another version beside those that are compared would have users of theirs.
        known = state.asked is not None and state.asked.version == asked
        return state if known else replace(state, asked=Asked(version=asked, since=now))
    if state.asked is not None and state.asked.version == asked:
        since = min(state.asked.since, now)
    waited_s = (now - since).total_seconds()
    named = None if inspection is None else inspection.named_after(state.closed.get(asked))
    admitted = admit(endpoint, facts, asked, named, waited_s=waited_s, serving=state.serving)
    if admitted is None:
        return replace(state, asked=Asked(version=asked, since=since))
    state = replace(state, asked=None)
    if isinstance(admitted, Refused):
        reason = "refused: " + " ".join(admitted.reasons)
        return replace(state, rejected={**state.rejected, asked: reason})
    by = None if named is None else named.asked_by
    return replace(
        state,
        scrape=None,
        rollout=RolloutState(
            id=f"{endpoint.name}-v{asked}-{now:%Y%m%dT%H%M%S.%f}",
            champion=version_of(state.serving),
            challenger=admitted,
            asked_by="" if by is None else by.user,
            declared=endpoint,
            started=now,
            phase_since=now,
        ),
    )


def asked_anew(endpoint: Endpoint, state: EndpointState, facts: RegistryFacts) -> str | None:
    """The version that `follow_registry` would have to admit or refuse, or None."""
    if state.override is not None or state.experiment is not None:
        return None
    state = replace(state, rejected=_still_rejected(endpoint, state, facts))
    state = replace(state, stage_before=_stages(endpoint, state, facts))
    asked, under_way = read_request(facts, endpoint.trigger, standing(state)), state.rollout
    return None if under_way is not None and under_way.challenger.version == asked else asked


def forget_withdrawn(
    endpoint: Endpoint, state: EndpointState, facts: RegistryFacts, *, now: datetime
) -> EndpointState:
    """The state without the rejected versions whose request no longer stands: the next one for them is a new one."""
    rejected = _still_rejected(endpoint, state, facts)
    for version in sorted(state.rejected.keys() - rejected.keys()):
        state = state.with_closed(version, now)
    return replace(state, rejected=rejected)


def _still_rejected(
    endpoint: Endpoint, state: EndpointState, facts: RegistryFacts
) -> Mapping[str, str]:
    """Those whose request still stands; all, while the registered model itself is gone: it may come back as it was."""
    if facts.is_gone:
        return state.rejected
    gone = withdrawn(facts, endpoint.trigger, state.rejected)
    return {version: why for version, why in state.rejected.items() if version not in gone}


def follow_override(
    endpoint: Endpoint, state: EndpointState, observed: Observed, *, now: datetime
) -> EndpointState:
    """The state after an operator's rollback: the rollout ends, and what was named serves as soon as it can answer.

    What does not get ready in the time of any revision is given up, so that the endpoint hears requests again.
    """
    override = state.override
    if override is None:
        return state
    state = state.with_experiment_ended(ExperimentOutcome.STOPPED, override.reason, now=now)
    if state.rollout is not None:
        state = end_rollout(state, Outcome.ROLLED_BACK, override.reason, now=now)
    if override.to is None or override.to == state.serving:
        return replace(state, override=None)
    version = override.to.version
    if observed.traffic != Traffic.all_to(version):
        override = replace(override, since=override.since or now)
        waited = now - (override.since or now)
        limit_s = endpoint.rollout.warm_limit_s
        failure = failure_to_warm(observed, version, waited=waited, limit_s=limit_s)
        if not failure:
            return replace(state, override=override)
        reason = f"v{version} was to serve instead ({override.reason}), but {failure}"
        return replace(state, override=None, serving_reason=reason)
    rejected = dict(state.rejected)
    if state.serving is not None:
        rejected[state.serving.version] = override.reason
    rejected.pop(version, None)
    state = replace(state, override=None, rejected=rejected)
    # What was gone back from is not where a later `rollback` goes by itself.
    served = tuple(one for one in state.served if one != override.to)
    return replace(state, serving=override.to, serving_reason=override.reason, served=served)


def failure_to_warm(observed: Observed, version: str, *, waited: timedelta, limit_s: float) -> str:
    """Why that version will not get ready; empty while it still may."""
    revision = observed.revisions.get(version)
    if revision is not None and revision.readiness is Readiness.FAILED:
        return f"its platform gave up on it: {revision.reason}"
    if waited > timedelta(seconds=limit_s):
        seen = "it was not deployed" if revision is None else revision.reason or revision.readiness
        return f"it was not ready within {limit_s:.0f} s: {seen}"
    return ""


def end_rollout(
    state: EndpointState, outcome: Outcome, reason: str, *, now: datetime
) -> EndpointState:
    """The state without its rollout. One that was rolled back is remembered until its request was seen withdrawn."""
    rollout = state.rollout
    if rollout is None:
        return state
    ended = EndedRollout(rollout=rollout, outcome=outcome, reason=reason, ended=now)
    state = replace(state, rollout=None, scrape=None, unreported=(*state.unreported, ended))
    state = state.with_closed(rollout.challenger.version, now)
    if outcome is Outcome.ROLLED_BACK:
        told = f"rolled back: {reason}"
        return replace(state, rejected={**state.rejected, rollout.challenger.version: told})
    return state


def _stages(endpoint: Endpoint, state: EndpointState, facts: RegistryFacts) -> dict[str, str]:
    """The last stage seen of each version outside the trigger's stage; "None" is left out.

    A version that `facts` does not show has no stage, whatever it had before.
    """
    trigger = endpoint.trigger
    if not isinstance(trigger, StageTrigger):
        return {}
    stages: dict[str, str] = {}
    for number, version in facts.versions.items():
        asks = version.stage == trigger.stage
        stages[number] = state.stage_before.get(number, "None") if asks else version.stage
    return {number: stage for number, stage in stages.items() if stage != "None"}
