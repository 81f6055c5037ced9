"""The only importer of the `kubernetes` package: get, list, apply, create, replace and delete, with our own errors.

Applies go under the field manager `shipway` with strict validation, so that an unknown field is refused and not pruned
in silence. A field that somebody else set is a `FieldConflict`; only the caller can know that it is ours alone, and say
so with `take_back`. There is no watch: every tick of the controller reads anew, and a lost event cannot mislead it.
What is written by compare-and-set (`create`, `replace`) is asked for once: a lost answer says nothing, and is told so.
What the objects mean is not known here: see `pod_status`, and `status` of each target.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
import urllib3
from kubernetes import client, config
from yaml import YAMLError

from registry.errors import (
    AnswerLost,
    BadInput,
    FieldConflict,
    KindMissing,
    ObjectChanged,
    TargetRefused,
    TargetUnavailable,
)
from registry.events import Event

FIELD_MANAGER = "shipway"

_CONNECT_S, _ANSWER_S = 5.0, 30.0
_ATTEMPTS = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
"""Five attempts wait for 3 s in all, plus jitter: a leader election of etcd passes by, an outage does not."""
_LONGEST_RETRY_AFTER_S = 30.0
_UNKNOWN_FIELD = "field not declared in schema"
"""An apply of an unknown field is answered with 500, and will be so for ever."""

_log = structlog.get_logger()

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, and where the API serves it."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """Its API group; empty for Kubernetes' core."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str, name: str = "") -> str:
        """The address of the object, or of all in the namespace."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
POD = Kind("v1", "Pod", "pods")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
RAY_SERVICE = Kind("ray.io/v1", "RayService", "rayservices")
INFERENCE_SERVICE = Kind("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices")
_APPLIED = (NETWORK_POLICY, HTTP_ROUTE, RAY_SERVICE, INFERENCE_SERVICE)

_INSTALL = {
    "ray.io": "KubeRay",
    "serving.kserve.io": "KServe",
    "gateway.networking.k8s.io": "the Gateway API",
}


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
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        answer = self._ask("GET", kind.path(namespace), {"labelSelector": selector})
        return tuple(answer.body_or_raise(kind, "list", namespace)["items"])

    def apply(
        self, body: Object, *, take_back: frozenset[str] = frozenset(), dry_run: bool = False
    ) -> Object:
        """The object after our fields were applied; with `dry_run`, as it would be.

        Fields named in `take_back` belong to us whoever set them last: who did is logged, and they are set again.

        Raises:
            FieldConflict: somebody else set one of our other fields.
            TargetUnavailable: as for `get`.
        """
        kind, metadata = kind_of(body), body["metadata"]
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
        if gone or answer.status == HTTPStatus.CONFLICT:
            message = f"Somebody else wrote {kind.kind} {metadata['name']} meanwhile: {answer.told}. Read it again."
            raise ObjectChanged(message)
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
    ) -> "_Answer":
        """The first answer that is final.

        An apply may be repeated by its nature, a deletion by its uid. A POST or PUT may be only after 429, which says
        that nothing was begun: had an earlier one been carried out, the later one would lose against it.
        """
        said = ""
        is_repeatable = method not in {"POST", "PUT"}
        for attempt in range(self._attempts):
            answer = self._ask_once(method, path, query or {}, body)
            if isinstance(answer, _Answer) and answer.is_final(is_repeatable=is_repeatable):
                return answer
            said = answer if isinstance(answer, str) else answer.told
            if not is_repeatable and not (isinstance(answer, _Answer) and answer.is_throttled):
                message = (
                    f"Whether {method} {path} was carried out is not known: {said}. Read it again."
                )
                raise AnswerLost(message)
            asked_s = answer.retry_after_s if isinstance(answer, _Answer) else 0.0
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
    ) -> "_Answer | str":
        """What was answered, or why nothing was."""
        content = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        try:
            request = self._api.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(*request, _request_timeout=self._timeout_s)
            text = response.read()
            return _Answer(
                response.status, _parse(text), _seconds(response.getheader("Retry-After"))
            )
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            return f"{type(error).__name__}: {error}"


def _parse(text: bytes) -> dict[str, Any]:
    """The JSON object; a proxy's page in between is told by its beginning."""
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text[:200].decode(errors="replace")}


def _seconds(header: Any) -> float:
    """Retry-After as seconds. Kubernetes sends no dates there."""
    text = str(header or "")
    return float(text) if text.isdecimal() else 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the API server said: an object, or a Status."""

    status: int
    body: dict[str, Any]
    retry_after_s: float

    @property
    def told(self) -> str:
        """Its message."""
        return f"{self.status} {self.body.get('message', '')}".strip()

    @property
    def details(self) -> Mapping[str, Any]:
        """What a Status is about."""
        return self.body.get("details") or {}

    @property
    def is_about_the_object(self) -> bool:
        """Whether a 404 is for an object, and not for a kind that the server does not serve."""
        return bool(self.details.get("name"))

    @property
    def is_throttled(self) -> bool:
        """Whether the request was turned away before anything was done for it."""
        return self.status == HTTPStatus.TOO_MANY_REQUESTS

    def is_final(self, *, is_repeatable: bool) -> bool:
        """Whether asking again would not help: no 429, no fault of the server, no write that came in between."""
        if self.status == HTTPStatus.CONFLICT and is_repeatable:
            # A conflict of fields, or an object that is another one by now; else somebody wrote at the same moment.
            return bool(self.details.get("causes")) or "uid" in self.told.lower()
        is_fault = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return not self.is_throttled and (not is_fault or _UNKNOWN_FIELD in self.told)

    def conflict(self, body: Object) -> FieldConflict | None:
        """The conflict of fields that this answer names, if it is one."""
        if self.status != HTTPStatus.CONFLICT:
            return None
        causes = self.details.get("causes") or ()
        fields = frozenset(str(cause.get("field")) for cause in causes)
        said = "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in causes)
        name = f"{body['kind']} {body['metadata']['name']}"
        message = (
            f"Somebody else set fields of {name} that Shipway applies: {said or self.told}. Undo that, or have its "
            "manager leave these fields alone."
        )
        return FieldConflict(message, fields=fields)

    def body_or_raise(self, kind: Kind, verb: str, namespace: str) -> dict[str, Any]:
        """The object, or what the refusal means.

        Raises:
            TargetRefused: the refusal, with what to do about it.
        """
        if self.status < HTTPStatus.BAD_REQUEST:
            return self.body
        if self.status == HTTPStatus.NOT_FOUND and not self.is_about_the_object:
            operator = _INSTALL.get(kind.group, "what serves it")
            message = (
                f"The cluster has no kind {kind.kind} in {kind.api_version}. Install {operator} with its CRDs, in a "
                "release that serves this version."
            )
            raise KindMissing(message)
        what = f"the cluster would not {verb} {kind.plural} in namespace {namespace}: {self.told}"
        if self.status == HTTPStatus.FORBIDDEN and "exceeded quota" in self.told:
            message = f"A quota is used up: {what}. Raise the ResourceQuota, or retire what is not needed."
        elif self.status == HTTPStatus.FORBIDDEN:
            message = (
                f"Access is forbidden: {what}. Give Shipway's ServiceAccount a Role with apiGroups [{kind.group!r}], "
                f"resources [{kind.plural}], verbs [{verb}]."
            )
        elif self.status == HTTPStatus.UNAUTHORIZED:
            message = (
                f"The cluster does not know us: {what}. Renew the credentials of this kube context."
            )
        elif self.status == HTTPStatus.NOT_FOUND:
            message = (
                f"Something is missing: {what}. Create the namespace, or mend kubernetes.namespace."
            )
        else:
            message = (
                f"The object was refused: {what}. Mend the endpoint file; `shipway diff` shows what would be applied. "
                "A field that is not known means another release of the operator than Shipway renders for."
            )
        raise TargetRefused(message)
