"""The only importer of the `kubernetes` package: get, list, watch, apply, create, replace and delete, with our own errors.

Applies go under the field manager `shipway` with strict validation, so that an unknown field is refused and not pruned
in silence. A field that somebody else set is a `FieldConflict`; only the caller can know that it is ours alone, and say
so with `take_back`. A watch says when to look and nothing else (see `watches`): every tick of the controller reads anew, and
a lost event cannot mislead it. What is written by compare-and-set (`create`, `replace`) is asked for once: a lost answer says
nothing, and is told so. What the answers mean is in `api_answer`; what the objects mean is not known here: see `pod_status`,
and `status` of each target.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import structlog
import urllib3
from kubernetes import client, config
from yaml import YAMLError

from deploy_targets.api_answer import Answer, Kind
from deploy_targets.manifest import Object, part
from registry.errors import AnswerLost, BadInput, TargetChanged, TargetUnavailable
from registry.events import Event

FIELD_MANAGER = "shipway"

_CONNECT_S, _ANSWER_S = 5.0, 30.0
_NO_ANSWER = (urllib3.exceptions.HTTPError, client.ApiException, OSError)
_ATTEMPTS = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
"""Five attempts wait for 3 s in all, plus jitter: a leader election of etcd passes by, an outage does not."""
_LONGEST_RETRY_AFTER_S = 30.0
_WATCH_S, _SILENCE_S = 300, 150.0
"""A watch is ended by the server after 5 minutes, so that a renewed token counts. Bookmarks come every minute: after two and
a half without a word the connection is taken for dead."""

_log = structlog.get_logger()

CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
POD = Kind("v1", "Pod", "pods")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
RAY_SERVICE = Kind("ray.io/v1", "RayService", "rayservices")
INFERENCE_SERVICE = Kind("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices")
_APPLIED = (NETWORK_POLICY, HTTP_ROUTE, RAY_SERVICE, INFERENCE_SERVICE)


def kind_of(body: Object) -> Kind:
    """The kind of a rendered object. One that is never applied is a KeyError."""
    known = {(one.api_version, one.kind): one for one in _APPLIED}
    return known[body["apiVersion"], body["kind"]]


def connect(context: str | None = None) -> client.ApiClient:
    """A client of the named context, of KUBECONFIG's current one, or of the cluster in which this process runs.

    Raises:
        BadInput: there is none of these, or KUBECONFIG is no such file.
    """
    settings = client.Configuration()
    load: Any = config  # its functions are not typed
    try:
        try:
            load.load_kube_config(context=context, client_configuration=settings)
        except config.ConfigException:
            if context is not None:
                raise
            load.load_incluster_config(client_configuration=settings)
    except config.ConfigException as error:
        wanted = "No cluster is configured" if context is None else f"There is no context {context}"
        message = f"{wanted}: {error}. Set KUBECONFIG, name a context in SHIPWAY_KUBE_CONTEXT, or run in a cluster."
        raise BadInput(message) from error
    except (YAMLError, TypeError, AttributeError) as error:
        message = f"KUBECONFIG is not a kubeconfig ({error}). Mend the file, or name another one."
        raise BadInput(message) from error
    # Its own retries would sleep by themselves and hide what was answered.
    settings.retries = False
    return client.ApiClient(settings)


class Cluster:
    """One API server."""

    def __init__(
        self,
        api: client.ApiClient,
        *,
        sleep: Callable[[float], None],
        jitter: Callable[[], float],
        attempts: int = _ATTEMPTS,
        answer_s: float = _ANSWER_S,
    ) -> None:
        """`sleep` waits between attempts for seconds; `jitter` draws from 0..1; `answer_s` is each answer's time limit."""
        self._api: Any = api  # its calls are not typed
        self._sleep = sleep
        self._jitter = jitter
        self._attempts = attempts
        self._timeout_s = min(_CONNECT_S, answer_s), answer_s

    def close(self) -> None:
        """Closes its connections."""
        self._api.close()

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object as the API server has it; None where there is none.

        Raises:
            TargetUnavailable: no answer; TargetRefused: a refusal; KindMissing: the kind is not installed.
        """
        answer = self._ask("GET", kind.path(namespace, name))
        if answer.status == HTTPStatus.NOT_FOUND and answer.is_about_the_object:
            return None
        return answer.body_or_raise(kind, "get", namespace)

    def list(self, kind: Kind, namespace: str, labels: Mapping[str, str]) -> tuple[Object, ...]:
        """The objects that carry all of `labels`.

        Raises:
            TargetUnavailable: as for `get`.
        """
        return tuple(self._list(kind, namespace, labels)["items"])

    def newest_version(self, kind: Kind, namespace: str, labels: Mapping[str, str]) -> str:
        """The resourceVersion as of which those objects could be listed now: from there a watch misses nothing.

        Raises:
            TargetUnavailable: as for `get`.
        """
        answer = self._list(kind, namespace, labels)
        return str(answer["metadata"]["resourceVersion"])

    def _list(self, kind: Kind, namespace: str, labels: Mapping[str, str]) -> Object:
        answer = self._ask("GET", kind.path(namespace), {"labelSelector": _selector(labels)})
        return answer.body_or_raise(kind, "list", namespace)

    def watch(
        self, kind: Kind, namespace: str, labels: Mapping[str, str], *, since: str
    ) -> "EventStream":
        """What happens to the objects that carry all of `labels` after that resourceVersion. Asked for once.

        A plain GET: its refusals are then read like all others. The package's `Watch` takes up again by itself and without a
        pause, after a 410 even from the same version.

        Raises:
            TargetChanged: what happened since then is no longer known; list again.
            TargetUnavailable: as for `get`.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": _selector(labels),
            "resourceVersion": since,
            "timeoutSeconds": str(_WATCH_S),
        }
        path = kind.path(namespace)
        try:
            response = self._send("GET", path, query, None, (self._timeout_s[0], _SILENCE_S))
            if response.status < HTTPStatus.BAD_REQUEST:
                return EventStream(response.response, path)
            answer = Answer.read(response.status, response.read(), None)
        except _NO_ANSWER as error:
            raise _watch_failed(path, HTTPStatus.OK, _in_words(error)) from error
        if answer.status != HTTPStatus.GONE and answer.is_final(may_cross=True):
            answer.body_or_raise(kind, "watch", namespace)
        raise _watch_failed(path, answer.status, answer.told)

    def apply(
        self,
        body: Object,
        *,
        take_back: frozenset[str] = frozenset(),
        dry_run: bool = False,
        over: Object | None = None,
    ) -> Object:
        """The object after our fields were applied; with `dry_run`, as it would be.

        Fields named in `take_back` belong to us whoever set them last: who did is logged, and they are set again. With
        `over`, it is applied to this very state of the object alone, however late a repeated attempt arrives.

        Raises:
            FieldConflict: somebody else set one of our other fields.
            ObjectChanged: it is not as in `over` any more.
            TargetUnavailable: as for `get`.
        """
        kind, metadata = kind_of(body), body["metadata"]
        if over is not None:
            state = {key: over["metadata"][key] for key in ("uid", "resourceVersion")}
            body = {**body, "metadata": {**metadata, **state}}
        path = kind.path(metadata["namespace"], metadata["name"])
        parameters = {
            "fieldManager": FIELD_MANAGER,
            "fieldValidation": "Strict",
            **({"dryRun": "All"} if dry_run else {}),
        }
        answer = self._ask("PATCH", path, {**parameters, "force": "false"}, body)
        conflict = answer.conflict(body)
        if conflict is not None:
            if not conflict.fields <= take_back:
                raise conflict
            if not dry_run:
                _log.warning(Event.FIELDS_TAKEN_BACK, object=path, reason=str(conflict))
            answer = self._ask("PATCH", path, {**parameters, "force": "true"}, body)
        return answer.body_or_raise(kind, "patch", metadata["namespace"])

    def create(self, kind: Kind, body: Object) -> Object:
        """The new object, as the API server has it.

        Raises:
            ObjectChanged: there is one of that name.
            AnswerLost: it may have been made, or may be yet.
            TargetUnavailable: as for `get`.
        """
        return self._write_once("POST", kind, body)

    def replace(self, kind: Kind, body: Object) -> Object:
        """The object after it was written over the one of the resourceVersion that `body` names.

        Raises:
            ObjectChanged: it has another resourceVersion by now, or is gone.
            AnswerLost: it may have been written, or may be yet.
            TargetUnavailable: as for `get`.
        """
        return self._write_once("PUT", kind, body)

    def _write_once(self, method: str, kind: Kind, body: Object) -> Object:
        metadata = body["metadata"]
        named = "" if method == "POST" else metadata["name"]
        path = kind.path(metadata["namespace"], named)
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        answer = self._ask(method, path, query, body)
        gone = answer.status == HTTPStatus.NOT_FOUND and answer.is_about_the_object and bool(named)
        if gone:
            raise answer.changed()
        verb = "create" if method == "POST" else "update"
        return answer.body_or_raise(kind, verb, metadata["namespace"])

    def delete(self, found: Object, kind: Kind) -> None:
        """Deletes this very object, and in time all that it owns; one that is gone, or another by now, is left alone.

        Raises:
            TargetUnavailable: as for `get`.
        """
        metadata = found["metadata"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"]},
        }
        path = kind.path(metadata["namespace"], metadata["name"])
        answer = self._ask("DELETE", path, {}, options)
        gone = answer.status == HTTPStatus.NOT_FOUND and answer.is_about_the_object
        if not gone and answer.status != HTTPStatus.CONFLICT:
            answer.body_or_raise(kind, "delete", metadata["namespace"])

    def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Answer:
        """The first answer that is final.

        An apply may be repeated by its nature or its resourceVersion, a deletion by its uid. A POST or PUT only after 429,
        when nothing was begun: had an earlier one been carried out, the later one would lose against it.
        """
        said = ""
        is_repeatable = method not in {"POST", "PUT"}
        may_cross = is_repeatable and "resourceVersion" not in part(body or {}, "metadata")
        for attempt in range(self._attempts):
            answer = self._ask_once(method, path, query or {}, body)
            if isinstance(answer, Answer) and answer.is_final(may_cross=may_cross):
                return answer
            said = answer if isinstance(answer, str) else answer.told
            if not is_repeatable and not (isinstance(answer, Answer) and answer.is_throttled):
                message = (
                    f"Whether {method} {path} was carried out is not known: {said}. Read it again."
                )
                raise AnswerLost(message)
            asked_s = answer.retry_after_s if isinstance(answer, Answer) else 0.0
            if asked_s > _LONGEST_RETRY_AFTER_S or attempt == self._attempts - 1:
                break
            pause_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
            self._sleep(max(asked_s, pause_s) * (1 + self._jitter() / 2))
        message = (
            f"The cluster did not answer {method} {path}: {said}. Nothing is concluded from that; the next look tries "
            "again. `kubectl get --raw /readyz` says whether the API server is well."
        )
        raise TargetUnavailable(message)

    def _ask_once(
        self, method: str, path: str, query: Mapping[str, str], body: Any
    ) -> Answer | str:
        """What was answered, or why nothing was."""
        try:
            response = self._send(method, path, query, body, self._timeout_s)
            text = response.read()
        except _NO_ANSWER as error:
            return _in_words(error)
        return Answer.read(response.status, text, response.getheader("Retry-After"))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        timeout_s: tuple[float, float],
    ) -> Any:
        """The response, of which only the head has been read. Raises one of `_NO_ANSWER`."""
        content = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        return self._api.call_api(*request, _request_timeout=timeout_s)


class EventStream:
    """A watch that is open: one iteration over its events, which `end` ends from any other thread; then `close` it."""

    def __init__(self, response: Any, path: str) -> None:
        """`response` is urllib3's, its head read."""
        self._response = response
        self._path = path

    def __iter__(self) -> Iterator[Object]:
        """Each event as the API server sent it, bookmarks among them.

        It is over when the server's time for it is, and likewise when the connection is lost: neither says anything about
        the objects, and the next watch goes on from the last event's version.

        Raises:
            TargetChanged: what happened meanwhile is no longer known; list again.
            TargetUnavailable: the server ended it with another error, or what came is no event.
        """
        try:
            for line in self._response:
                event = json.loads(line)
                kind, found = event["type"], event["object"]
                if kind == "ERROR":
                    raise _watch_failed(self._path, found.get("code"), found.get("message"))
                yield event
        except (urllib3.exceptions.HTTPError, OSError):
            return
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _watch_failed(self._path, HTTPStatus.OK, f"no event, {error!r}") from error

    def close(self) -> None:
        """Closes the connection. For the thread that iterates; any other one calls `end`."""
        self._response.close()

    def end(self) -> None:
        """Has the iteration end at once; where it has ended already nothing is done."""
        with suppress(ValueError, RuntimeError, OSError):  # urllib3's answers where it is over
            self._response.shutdown()


def _watch_failed(path: str, code: int, said: str) -> TargetUnavailable:
    message = f"The watch on {path} was ended: {said}. It lists again and goes on from there."
    return (TargetChanged if code == HTTPStatus.GONE else TargetUnavailable)(message)


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
