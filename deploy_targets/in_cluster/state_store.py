"""The state of each endpoint in a ConfigMap of its own, saved by compare-and-set on its resourceVersion.

A save whose answer was lost may have been carried out. It is not asked for again: the object is read, and only where it
bears the mark of this very save has it been carried out. Otherwise nothing is concluded, and nothing is done on it; should
it be carried out later, whoever saves next from the older resourceVersion loses, and reads.

A ConfigMap holds 1 MiB and etcd's requests 1.5, so documents are compressed. Measured, with random numbers: a rollout of
1,000 points takes 110 kB with one metric, 240 with three, 370 with five. Several that MLflow could not be told of would
not fit: then charts are left out before a decision is. `kubectl get configmap NAME -o jsonpath='{.binaryData.state}' |
base64 -d | gunzip` shows one.
"""

import base64
import binascii
import gzip
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace

import structlog

from deploy_targets.cluster import CONFIG_MAP, Cluster
from deploy_targets.manifest import Object, object_labels, part
from deploy_targets.rollout.state import EndpointState, RolloutState
from deploy_targets.rollout.store import (
    NEVER_SAVED,
    Saved,
    dump_state,
    parse_state,
    saved_by_another,
)
from registry.errors import AnswerLost, ObjectChanged, StateTooLarge, StateUnreadable
from registry.events import Event

STATE_LABEL = {"app.kubernetes.io/component": "rollout-state"}
_SAVE = "shipway.io/save"
_KEY = "state"
_MAX_BYTES = 1_000_000
"""Of the compressed document; the API server refuses a ConfigMap of more than 1,048,576 bytes of data."""

_log = structlog.get_logger()


def state_name(endpoint: str) -> str:
    """The ConfigMap of an endpoint's state."""
    return f"shipway-state-{endpoint}"


class ConfigMapStore:
    """The store of a controller that runs on Kubernetes."""

    def __init__(self, cluster: Cluster, *, namespace: str) -> None:
        """`namespace` is the controller's own. Nothing is contacted before the first call."""
        self._cluster = cluster
        self._namespace = namespace

    def load(self, endpoint: str) -> Saved:
        """What is known of `endpoint`; an empty state when nothing is.

        Raises:
            StateUnreadable: it was saved by a newer version, or is damaged.
            TargetUnavailable: the API server does not answer, or refuses.
        """
        found = self._cluster.get(CONFIG_MAP, self._namespace, state_name(endpoint))
        if found is None:
            return Saved(EndpointState(endpoint=endpoint), NEVER_SAVED)
        return Saved(_unpacked(found), found["metadata"]["resourceVersion"])

    def states(self) -> tuple[EndpointState, ...]:
        """The states of all endpoints that were ever saved.

        Raises:
            StateUnreadable: as for `load`.
        """
        return tuple(map(_unpacked, self._cluster.list(CONFIG_MAP, self._namespace, STATE_LABEL)))

    def names(self) -> tuple[str, ...]:
        """The endpoints whose states were ever saved.

        Raises:
            TargetUnavailable: as for `load`.
        """
        found = self._cluster.list(CONFIG_MAP, self._namespace, STATE_LABEL)
        return tuple(one["metadata"]["name"].removeprefix(state_name("")) for one in found)

    def save(self, state: EndpointState, *, expected: str) -> str:
        """Saves `state` in the place of revision `expected` and returns its own revision; durable on return.

        Raises:
            StateConflict: the saved revision is another one.
            StateTooLarge: it does not fit into a ConfigMap, even without its charts.
            TargetUnavailable: it is not known to be saved: nothing may be done on it.
        """
        mark = uuid.uuid4().hex
        metadata: dict[str, object] = {
            "name": state_name(state.endpoint),
            "namespace": self._namespace,
            "labels": {**object_labels(state.endpoint), **STATE_LABEL},
            "annotations": {_SAVE: mark},
        }
        body: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "binaryData": {_KEY: base64.b64encode(_packed(state)).decode()},
        }
        try:
            if expected == NEVER_SAVED:
                saved = self._cluster.create(CONFIG_MAP, body)
            else:
                metadata["resourceVersion"] = expected
                saved = self._cluster.replace(CONFIG_MAP, body)
        except ObjectChanged as error:
            raise saved_by_another(state, expected) from error
        except AnswerLost:
            found = self._cluster.get(CONFIG_MAP, self._namespace, state_name(state.endpoint))
            if found is None or part(found, "metadata", "annotations").get(_SAVE) != mark:
                raise
            saved = found
        revision: str = saved["metadata"]["resourceVersion"]
        return revision


def _packed(state: EndpointState) -> bytes:
    """The document, with as much of its charts as there is room for.

    Raises:
        StateTooLarge: there is no room without them either.
    """
    size = 0
    for lighter in _lighter(state):
        packed = gzip.compress(dump_state(lighter), mtime=0)
        if len(packed) <= _MAX_BYTES:
            if lighter is not state:
                _log.warning(Event.CHARTS_DROPPED, endpoint=state.endpoint, size_bytes=size)
            return packed
        size = len(packed)
    message = (
        f"The state of endpoint {state.endpoint} takes {size} bytes, and a ConfigMap holds {_MAX_BYTES}. It grows with the "
        "ended rollouts that MLflow was not told of and with versions that were turned down: see that MLflow answers, and "
        "clear the aliases and stages of what was turned down."
    )
    raise StateTooLarge(message)


def _lighter(state: EndpointState) -> Iterator[EndpointState]:
    """The state; without the charts of ended rollouts; without that of the one under way. Last points stay, and counts."""
    yield state
    ended = tuple(replace(one, rollout=_without_chart(one.rollout)) for one in state.unreported)
    state = replace(state, unreported=ended)
    yield state
    if state.rollout is not None:
        yield replace(state, rollout=_without_chart(state.rollout))


def _without_chart(rollout: RolloutState) -> RolloutState:
    return replace(rollout, points=rollout.points[-1:])


def _unpacked(found: Object) -> EndpointState:
    try:
        document = gzip.decompress(base64.b64decode(found["binaryData"][_KEY], validate=True))
    except (KeyError, TypeError, binascii.Error, EOFError, OSError, zlib.error) as error:
        message = (
            f"ConfigMap {found['metadata']['name']} holds no state that can be read ({type(error).__name__}). Restore it, "
            "or delete it to adopt what serves."
        )
        raise StateUnreadable(message) from error
    return parse_state(document)
