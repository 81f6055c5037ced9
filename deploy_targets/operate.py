"""What an operator asks for by hand: promote, roll back, hold, resume, follow. Called by the CLI.

What would be applied for a version is `rendering`'s business, what nobody needs any more `garbage`'s.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from deploy_targets.control_plane import ControlPlane
from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.state import EndpointState, Hold, Override
from deploy_targets.rollout.status import Status
from deploy_targets.rollout.store import Store
from registry.errors import BadInput, PromotionRefused
from registry.mlflow_registry import MlflowRegistry
from registry.promotion import (
    CHAMPION,
    AliasTrigger,
    MoveAlias,
    RegistryChange,
    TransitionStage,
    check_gate,
)
from registry.release import Refused, Release
from registry.verification import check_release


def request_promotion(
    registry: MlflowRegistry, endpoint: Endpoint, version: str, *, dry_run: bool
) -> str:
    """Writes the request that the controller will see, and says so.

    Raises:
        NotFound: there is no such version.
        PromotionRefused: it may not be deployed; every reason is named.
    """
    champion = registry.aliases(endpoint.model).get(CHAMPION)
    serving = None if champion is None else registry.version(endpoint.model, champion)
    admitted = check_gate(registry.version(endpoint.model, version), serving=serving)
    if isinstance(admitted, Refused):
        raise PromotionRefused("\n".join(admitted.reasons))
    change: RegistryChange
    if isinstance(endpoint.trigger, AliasTrigger):
        change = MoveAlias(alias=endpoint.trigger.alias, version=version)
        told = f"alias {change.alias} of {endpoint.model} → v{version}"
    else:
        change = TransitionStage(version=version, stage=endpoint.trigger.stage)
        told = f"{endpoint.model} v{version} → stage {change.stage}"
    if dry_run:
        return f"Would write: {told}."
    registry.write(endpoint.model, change)
    return f"Written: {told}. Follow it with `shipway watch {endpoint.name}`."


def request_rollback(
    plane: ControlPlane, endpoint: Endpoint, *, to: str | None, reason: str, by: str
) -> str:
    """Saves the operator's decision; the controller carries it out at its next look.

    MLflow and S3 are asked only about a version that never served here, or so long ago that it is forgotten.

    Raises:
        BadInput: there is nothing to end and nothing to go back to.
        PromotionRefused, IntegrityError: `to` may not be deployed.
    """
    store = plane.store()
    saved = store.load(endpoint.name)
    state = saved.state
    if to is None and state.rollout is not None:
        release, told = None, f"the rollout of v{state.rollout.challenger.version} ends"
    elif to is None and state.experiment is not None:
        release, told = None, f"the experiment {state.experiment.name} ends"
    else:
        release = _release_to(state, to, plane, endpoint)
        told = f"{release} serves again"
    override = Override(to=release, reason=f"operator {by}: {reason}", by=by)
    store.save(replace(state, override=override), expected=saved.revision)
    return f"Saved: {told}. Follow it with `shipway watch {endpoint.name}`."


def request_hold(store: Store, endpoint: Endpoint, *, reason: str, by: str) -> str:
    """Saves the operator's word that no more requests are moved to a challenger; one that was given before is replaced."""
    saved = store.load(endpoint.name)
    state = replace(saved.state, hold=Hold(reason=reason, by=by))
    store.save(state, expected=saved.revision)
    rollout = state.rollout
    waits = "no rollout is under way; the next one waits at weight 0"
    if rollout is not None:
        waits = f"v{rollout.challenger.version} gets no more requests than it has, and is still rolled back if it does harm"
    return f"Held: {waits}. `shipway resume {endpoint.name}` takes it back."


def request_resume(store: Store, endpoint: Endpoint) -> str:
    """Takes the operator's hold back.

    Raises:
        BadInput: there is none.
    """
    saved = store.load(endpoint.name)
    if saved.state.hold is None:
        message = f"{endpoint.name} is not held. `shipway status` says what a rollout waits for."
        raise BadInput(message)
    store.save(replace(saved.state, hold=None), expected=saved.revision)
    return f"No longer held. Follow it with `shipway watch {endpoint.name}`."


def _release_to(
    state: EndpointState, to: str | None, plane: ControlPlane, endpoint: Endpoint
) -> Release:
    if to is None and state.previous is None:
        message = f"Nothing is being rolled out on {endpoint.name}, and nothing served before. Name a version with --to."
        raise BadInput(message)
    for known in (*reversed(state.served), state.serving):
        if known is not None and to in {None, known.version}:
            return known
    admitted = check_gate(plane.registry().version(endpoint.model, str(to)))
    if isinstance(admitted, Refused):
        raise PromotionRefused("\n".join(admitted.reasons))
    check_release(admitted, plane.artifacts(), plane.trusted_keys())
    return admitted


def follow(look: Callable[[], Status], *, console: Console, every_s: float, looks: int) -> None:
    """Shows the status again and again, until `looks` are used up (0: until interrupted)."""
    seen = 0
    with Live(console=console, auto_refresh=False) as live:
        while looks == 0 or seen < looks:
            live.update("\n".join(look().lines()), refresh=True)
            seen += 1
            if seen != looks:
                time.sleep(every_s)
