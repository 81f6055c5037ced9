"""What an API server answered, and what that means to us: an object, or one of our own errors. Pure.

How it is asked, and how often, is in `cluster`.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from registry.errors import FieldConflict, KindMissing, ObjectChanged, TargetRefused

_UNKNOWN_FIELD = "field not declared in schema"
"""An apply of an unknown field is answered with 500, and will be so for ever."""

_INSTALL = {
    "ray.io": "KubeRay",
    "serving.kserve.io": "KServe",
    "gateway.networking.k8s.io": "the Gateway API",
}


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said: an object, or a Status."""

    status: int
    body: dict[str, Any]
    retry_after_s: float

    @classmethod
    def read(cls, status: int, text: bytes, retry_after: str | None) -> "Answer":
        """The answer of that text; what stands in between and answers no object is told by its beginning.

        It is no answer of the API server's, so with a status of success it is a bad gateway's. `retry_after` is the header:
        Kubernetes sends seconds there, and no dates.
        """
        body: Any = None
        with suppress(ValueError):
            body = json.loads(text)
        if not isinstance(body, dict):
            body = {"message": text[:200].decode(errors="replace")}
        if status < HTTPStatus.BAD_REQUEST and "kind" not in body:
            status = HTTPStatus.BAD_GATEWAY
        asked = retry_after or ""
        return cls(status, cast("dict[str, Any]", body), float(asked) if asked.isdecimal() else 0.0)

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

    def is_final(self, *, may_cross: bool) -> bool:
        """Whether asking again would not help: no 429, no fault of the server, no write that one `may_cross`."""
        if self.status == HTTPStatus.CONFLICT and may_cross:
            # A conflict of fields, or an object that is another one by now; else somebody wrote at the same moment.
            return bool(self.details.get("causes")) or "uid" in self.told.lower()
        is_fault = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return not self.is_throttled and (not is_fault or _UNKNOWN_FIELD in self.told)

    def conflict(self, body: Mapping[str, Any]) -> FieldConflict | None:
        """The conflict of fields that this answer names, if it is one."""
        causes = self.details.get("causes") or ()
        if self.status != HTTPStatus.CONFLICT or not causes:
            return None
        fields = frozenset(str(cause.get("field")) for cause in causes)
        said = "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in causes)
        name = f"{body['kind']} {body['metadata']['name']}"
        message = (
            f"Somebody else set fields of {name} that Shipway applies: {said}. Undo that, or have its "
            "manager leave these fields alone."
        )
        return FieldConflict(message, fields=fields)

    def changed(self) -> ObjectChanged:
        """What a conflict of versions means."""
        return ObjectChanged(f"Somebody else wrote it meanwhile: {self.told}. Read it again.")

    def body_or_raise(self, kind: Kind, verb: str, namespace: str) -> dict[str, Any]:
        """The object, or what the refusal means.

        Raises:
            TargetRefused: the refusal, with what to do about it.
        """
        if self.status < HTTPStatus.BAD_REQUEST:
            return self.body
        if self.status == HTTPStatus.CONFLICT:
            raise self.changed()
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
