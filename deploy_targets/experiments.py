"""What an operator asks of experiments: saved first, carried out by the controller at its next look."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from deploy_targets.control_plane import ControlPlane
from deploy_targets.endpoint import Endpoint
from deploy_targets.rollout.experiment import rules_for
from deploy_targets.rollout.experiment_state import Experiment
from deploy_targets.rollout.state import EndpointState
from deploy_targets.rollout.store import Store
from registry.engines import explain_misfit
from registry.errors import BadInput, PromotionRefused
from registry.promotion import check_gate
from registry.release import APPROVAL_TAG, Refused, Release
from registry.verification import check_release

MAX_ARMS = 4
"""Beside the champion. Each takes its part of the rates, and an HTTPRoute has room for few."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
"""It is part of a tag that MLflow is asked for, and a quotation mark would end the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRequest:
    """What is asked for."""

    name: str
    versions: tuple[str, ...]
    share: int
    goal: str
    until: datetime | None
    users: int | None
    by: str


def request_experiment(
    plane: ControlPlane, endpoint: Endpoint, asked: ExperimentRequest, *, now: datetime
) -> str:
    """Saves an experiment. Every version is checked as for a rollout: its gate, its engine, its bytes, its approval.

    Raises:
        BadInput: it cannot be done on this endpoint, or not now; with what to do.
        PromotionRefused, IntegrityError: one of the versions may not be deployed.
    """
    store = plane.store()
    saved = store.load(endpoint.name)
    champion = _free_champion(endpoint, saved.state)
    versions = tuple(one for one in asked.versions if one != champion.version)
    _check(endpoint, asked, versions, now=now)
    try:
        rules = rules_for(endpoint, asked.goal, arms=len(versions))
    except ValueError as error:
        message = (
            f"By rollout.metrics.{asked.goal} of {endpoint.name} nothing could be decided: {error}"
        )
        raise BadInput(message) from error
    experiment = Experiment(
        id=f"{endpoint.name}-{asked.name}-{now:%Y%m%dT%H%M%S.%f}",
        name=asked.name,
        champion=champion.version,
        arms=tuple(_admitted(plane, endpoint, version) for version in versions),
        share=asked.share,
        goal=asked.goal,
        rules=rules,
        by=asked.by,
        asked=now,
        until=asked.until,
        users=asked.users,
        phase_since=now,
    )
    store.save(replace(saved.state, experiment=experiment), expected=saved.revision)
    shares = ", ".join(f"v{one} {share} %" for one, share in experiment.traffic.weights.items())
    return (
        f"Saved: {experiment.name} begins once its versions are ready, with {shares}. "
        f"Follow it with `shipway experiment status {endpoint.name}`."
    )


def request_stop(store: Store, endpoint: Endpoint, *, reason: str, by: str) -> str:
    """Saves that the experiment is to end: all requests go back to the champion by one write.

    Raises:
        BadInput: there is none.
    """
    saved = store.load(endpoint.name)
    experiment = saved.state.experiment
    if experiment is None:
        message = f"No experiment is under way on {endpoint.name}."
        raise BadInput(message)
    told = f"operator {by}: {reason}"
    state = replace(saved.state, experiment=replace(experiment, stop=told))
    store.save(state, expected=saved.revision)
    return f"Saved: {experiment.name} ends, and all requests go to v{experiment.champion}."


def _free_champion(endpoint: Endpoint, state: EndpointState) -> Release:
    """What serves, where nothing else is under way."""
    name = endpoint.name
    if endpoint.guard.sticky is None:
        message = f"Users of {name} are not sticky, so they would meet now one version, now another. Declare guard.sticky, and try again."
        raise BadInput(message)
    if state.experiment is not None:
        message = f"{state.experiment.line()}. End it with `shipway experiment stop {name}` first."
        raise BadInput(message)
    if state.rollout is not None or state.override is not None:
        message = f"A rollout is under way on {name}. Wait for its end, or end it with `shipway rollback {name}`."
        raise BadInput(message)
    if state.serving is None:
        message = f"Nothing serves on {name} yet, so there is nothing to compare with. Release a version first."
        raise BadInput(message)
    return state.serving


def _check(
    endpoint: Endpoint, asked: ExperimentRequest, versions: Sequence[str], *, now: datetime
) -> None:
    given = endpoint.rollout.metrics.given()
    largest = 100 * len(versions) // (len(versions) + 1)
    fault = ""
    if _NAME.fullmatch(asked.name) is None:
        fault = "--name: give 1 to 100 letters, digits, blanks and ._- that begin with a letter or a digit"
    elif not versions or len(set(versions)) < len(versions) or len(versions) > MAX_ARMS:
        fault = (
            f"--versions: name 1 to {MAX_ARMS} versions other than the one that serves, each once"
        )
    elif not len(versions) <= asked.share <= largest:
        fault = f"--share: give {len(versions)} to {largest} percent, for the champion is to have as much as any other"
    elif asked.goal in {"quality", "feedback"}:
        fault = f"--goal {asked.goal}: the guard does not count it for each user yet; choose one of {', '.join(given)}"
    elif asked.goal not in given:
        fault = f"--goal {asked.goal}: {endpoint.name} judges by {', '.join(given)}; declare rollout.metrics.{asked.goal}, or choose one of these"
    elif asked.until is None and asked.users is None:
        fault = "Give --until or --users, or it would never have to end"
    elif asked.until is not None and asked.until <= now:
        fault = f"--until: {asked.until:%Y-%m-%d %H:%M} UTC is over; give a time to come"
    elif endpoint.promote.approval == "named":
        fault = (
            f"{endpoint.name} asks for approval by name, and who asks for an experiment is not known to MLflow; "
            "promote the version instead"
        )
    if fault:
        raise BadInput(f"{fault}.")


def _admitted(plane: ControlPlane, endpoint: Endpoint, version: str) -> Release:
    known = plane.registry().version(endpoint.model, version)
    admitted = check_gate(known)
    if isinstance(admitted, Refused):
        raise PromotionRefused("\n".join(admitted.reasons))
    if misfit := explain_misfit(known.tags, endpoint.serving_engine):
        message = f"{endpoint.model} v{version}: {misfit}."
        raise PromotionRefused(message)
    if endpoint.promote.approval != "none" and APPROVAL_TAG not in known.tags:
        message = f"{endpoint.model} v{version} is not approved. Have somebody else set its tag {APPROVAL_TAG}, and ask again."
        raise PromotionRefused(message)
    check_release(admitted, plane.artifacts(), plane.trusted_keys())
    return admitted
