"""Create, replace, patch and apply: from a store and what was sent to a new store and an answer. Pure.

Each write ends in `_settled`: the server's own metadata, the part that the address may write, pruning, defaults,
validation, generation, ownership, and no write at all where nothing changed. Deleting is in `deletes`.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.kubernetes_api import deletes, status
from tests.kubernetes_api.apply import Applied, apply, typed_faults, updated_managers
from tests.kubernetes_api.core_kinds import METADATA
from tests.kubernetes_api.ownership import Manager, Managers, written_managers, written_since
from tests.kubernetes_api.resources import Resource
from tests.kubernetes_api.schema import Fault, defaulted, faults, pruned, unknown_fields
from tests.kubernetes_api.store import Key, Store, put

Body = Mapping[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_NAME_LENGTH = 253
_KEPT_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What a write is about, beside the object that was sent."""

    resource: Resource
    namespace: str
    name: str
    """Empty for a POST."""
    subresource: str = ""
    manager: str
    is_dry_run: bool = False
    is_strict: bool = False
    """Unknown fields are an error, not pruned."""
    now: str
    uid: str
    """Of an object that is new."""

    def key(self, name: str | None = None) -> Key:
        return Key(self.resource.group, self.resource.plural, self.namespace, name or self.name)

    def owner(self, operation: str) -> Manager:
        return Manager(
            name=self.manager,
            operation=operation,
            api_version=self.resource.api_version,
            subresource=self.subresource,
        )


def create(store: Store, write: Write, sent: Body) -> tuple[Store, Body]:
    """A POST."""
    body = _of_kind(write, sent)
    metadata = body["metadata"]
    if metadata.get("resourceVersion"):
        raise status.unknown_error("resourceVersion should not be set on objects to be created")
    name = metadata.get("name") or ""
    if not name and metadata.get("generateName"):
        name = f"{metadata['generateName']}{write.uid[:5]}"
    if not name:
        fault = Fault(
            field="metadata.name",
            reason="FieldValueRequired",
            message="Required value: name or generateName is required",
        )
        raise status.invalid(write.resource, "", [fault])
    if write.key(name) in store.objects:
        raise status.already_exists(write.resource, name)
    body = {**body, "metadata": {**metadata, "name": name}}
    return _settled(store, write, None, _cleaned(write, body))


def replace(store: Store, write: Write, sent: Body) -> tuple[Store, Body]:
    """A PUT."""
    live = find(store, write)
    body = _of_kind(write, sent)
    if not body["metadata"].get("resourceVersion") and write.resource.needs_version_to_replace:
        fault = Fault(
            field="metadata.resourceVersion",
            reason="FieldValueInvalid",
            message="Invalid value: 0: must be specified for an update",
        )
        raise status.invalid(write.resource, write.name, [fault])
    _check_versions(write, live, body)
    return _settled(store, write, live, _cleaned(write, body))


def merge_patch(store: Store, write: Write, sent: Body) -> tuple[Store, Body]:
    """A PATCH by RFC 7386."""
    live = find(store, write)
    if not isinstance(sent, Mapping):
        raise status.bad_request("a merge patch is an object")
    body = _of_kind(write, _merged(live, sent))
    _check_versions(write, live, body)
    return _settled(store, write, live, _cleaned(write, body))


def _merged(live: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    found = dict(live) if isinstance(live, Mapping) else {}
    for key, one in patch.items():
        if one is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), one)
    return found


def apply_patch(store: Store, write: Write, sent: Body, *, force: bool) -> tuple[Store, Body]:
    """A PATCH that is a server-side apply."""
    live = store.objects.get(write.key())
    if live is None and write.subresource:
        raise status.not_found(write.resource, write.name)
    body = _of_kind(write, sent)
    if body["metadata"].get("managedFields"):
        raise status.bad_request("metadata.managedFields must be nil")
    resource = write.resource
    if said := typed_faults(body, resource.schema):
        what = said[0] if len(said) == 1 else "errors:\n  " + "\n  ".join(said)
        kind = f"{write.namespace}/{write.name}; {resource.api_version}, Kind={resource.kind}"
        raise status.unknown_error(f"failed to create typed patch object ({kind}): {what}")
    if live is not None:
        _check_versions(write, live, body)
    elif uid := body["metadata"].get("uid"):
        why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise status.modified(write.resource, write.name, why)
    named = {"name": write.name, **({"namespace": write.namespace} if write.namespace else {})}
    config = _without_nulls(_writable(write, {**body, "metadata": {**body["metadata"], **named}}))
    base = live or {"metadata": named}
    done = apply(base, config, resource.schema, manager=write.owner("Apply"), force=force)
    if not isinstance(done, Applied):
        raise status.conflicts((one, written_since(base, one.manager)) for one in done)
    return _settled(store, write, live, done.body, done.managers)


def find(store: Store, write: Write) -> Body:
    """The object that is written."""
    live = store.objects.get(write.key())
    if live is None:
        raise status.not_found(write.resource, write.name)
    return live


def _of_kind(write: Write, sent: Any) -> Body:
    """What was sent, as an object of the address's kind."""
    if not isinstance(sent, Mapping):
        raise status.bad_request("the body is no object")
    resource = write.resource
    wanted = {"apiVersion": resource.api_version, "kind": resource.kind}
    for key, value in wanted.items():
        if key not in sent and resource.is_custom:
            raise status.bad_request(f"Object '{key}' is missing in the object that was sent")
        if sent.get(key, value) != value:
            message = (
                f"the {key} in the data ({sent[key]}) does not match the expected one ({value})"
            )
            raise status.bad_request(message)
    metadata = defaulted(sent.get("metadata") or {}, METADATA)
    if found := list(faults(metadata, METADATA, "metadata")):
        raise _refusal(resource, write.name, found)
    for key, value in (("name", write.name), ("namespace", write.namespace)):
        if value and metadata.get(key, value) != value:
            message = f"the {key} of the object ({metadata[key]}) does not match the one on the URL ({value})"
            raise status.bad_request(message)
    return {**sent, **wanted, "metadata": metadata}


def _cleaned(write: Write, body: Body) -> Body:
    """Without unknown fields; refuses them where that was asked for."""
    resource = write.resource
    if write.is_strict and (unknown := list(unknown_fields(body, resource.schema))):
        said = ", ".join(f'unknown field "{one}"' for one in unknown)
        raise status.undecodable(resource, f"strict decoding error: {said}")
    return pruned(body, resource.schema)


def _check_versions(write: Write, live: Body, body: Body) -> None:
    """Refuse a write that started from another version, or means another object of the name."""
    sent, stands = body["metadata"], live["metadata"]
    if sent.get("uid", stands["uid"]) != stands["uid"]:
        why = f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta: {stands['uid']}"
        raise status.modified(write.resource, write.name, why)
    if (sent.get("resourceVersion") or stands["resourceVersion"]) != stands["resourceVersion"]:
        raise status.modified(write.resource, write.name)


def _writable(write: Write, body: Body) -> Body:
    """The part of what was sent that the address may write: all but the status, or the status alone."""
    if write.subresource == "status":
        kept = ("apiVersion", "kind", "status")
        names = {key: one for key, one in body["metadata"].items() if key in ("name", "namespace")}
        return {**{key: body[key] for key in kept if key in body}, "metadata": names}
    if write.resource.has_status:
        return {key: one for key, one in body.items() if key != "status"}
    return body


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return value


def _settled(
    store: Store, write: Write, live: Body | None, sent: Body, managers: Managers | None = None
) -> tuple[Store, Body]:
    """The end of every write."""
    resource = write.resource
    body = _joined_with_live(write, live, sent)
    if resource.kind == "Secret":
        body = _encoded_secret(body)
    body = defaulted(body, resource.schema)
    name = body["metadata"]["name"]
    old = None if live is None else live
    if found := [*_metadata_faults(body["metadata"]), *faults(body, resource.schema, old=old)]:
        raise _refusal(resource, name, found)
    if live is None and resource.is_namespaced:
        _check_namespace(store, write.namespace)
    if managers is None:
        owner = write.owner("Update")
        managers = updated_managers(live, body, resource.schema, manager=owner)
    metadata = {key: one for key, one in body["metadata"].items() if key != "managedFields"}
    metadata["managedFields"] = written_managers(managers, live, write.now)
    if resource.counts_generations:
        metadata["generation"] = _generation(live, body, resource)
    body = {**body, "metadata": metadata}
    if live is not None and body == live:
        return store, live
    if write.is_dry_run:
        return store, body
    key = write.key(name)
    if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
        stored, body = put(store, key, body)
        return deletes.removed(stored, key, write.now), body
    return put(store, key, body)


def _refusal(resource: Resource, name: str, found: list[Fault]) -> status.Refusal:
    """What is no metadata, or no object of a kind of Kubernetes' own, cannot even be read: 400 before any validation."""
    for fault in found:
        is_typed = not resource.is_custom or fault.field.partition(".")[0] == "metadata"
        if fault.reason == "FieldValueTypeInvalid" and is_typed:
            return status.undecodable(resource, fault.message)
    return status.invalid(resource, name, found)


def _joined_with_live(write: Write, live: Body | None, sent: Body) -> Body:
    """What was sent, within what the address may write, with the server's own metadata."""
    if live is None:
        own = {"uid": write.uid, "creationTimestamp": write.now}
        dropped = ("resourceVersion", *_KEPT_METADATA)
        given = {key: one for key, one in sent["metadata"].items() if key not in dropped}
        if write.resource.kind == "Namespace":
            labels = {"kubernetes.io/metadata.name": given["name"], **given.get("labels", {})}
            given = {**given, "labels": labels}
        if write.namespace:
            own["namespace"] = write.namespace
        return {**_writable(write, sent), "metadata": {**given, **own}}
    stands = live["metadata"]
    if write.subresource == "status":
        others = {key: one for key, one in live.items() if key != "status"}
        return {**others, **({"status": sent["status"]} if "status" in sent else {})}
    kept = {
        key: stands[key]
        for key in (*_KEPT_METADATA, "name", "namespace", "resourceVersion")
        if key in stands
    }
    given = {key: one for key, one in sent["metadata"].items() if key not in _KEPT_METADATA}
    body = {**_writable(write, sent), "metadata": {**given, **kept}}
    if write.resource.has_status and "status" in live:
        body["status"] = live["status"]
    return body


def _generation(live: Body | None, body: Body, resource: Resource) -> int:
    """Grows with what is wanted, not with metadata or what is observed."""
    if live is None:
        return 1
    aside = {"metadata", "status"} if resource.has_status else {"metadata"}
    wanted, before = (
        {key: one for key, one in each.items() if key not in aside} for each in (body, live)
    )
    generation: int = live["metadata"]["generation"]
    return generation + (wanted != before)


def _encoded_secret(body: Body) -> Body:
    texts, before = body.get("stringData") or {}, body.get("data") or {}
    if not all(isinstance(one, Mapping) for one in (texts, before)) or not all(
        isinstance(one, str) for one in texts.values()
    ):
        return body  # to be refused for its types
    data = {key: base64.b64encode(one.encode()).decode() for key, one in texts.items()}
    left = {key: one for key, one in body.items() if key != "stringData"}
    return {**left, "data": {**before, **data}} if data else left


def _check_namespace(store: Store, namespace: str) -> None:
    key = Key("", "namespaces", "", namespace)
    if key not in store.objects:
        details = {"name": namespace, "kind": "namespaces"}
        message = f'namespaces "{namespace}" not found'
        raise status.Refusal(status.failure(404, "NotFound", message, details))


def _metadata_faults(metadata: Mapping[str, Any]) -> Iterator[Fault]:
    name = metadata["name"]
    if not _NAME.fullmatch(name) or len(name) > _NAME_LENGTH:
        message = f'Invalid value: "{name}": a lowercase RFC 1123 subdomain is wanted'
        yield Fault(field="metadata.name", reason="FieldValueInvalid", message=message)
    for key, one in metadata.get("labels", {}).items():
        if not _LABEL.fullmatch(one):
            message = f'Invalid value: "{one}": a valid label is wanted for {key}'
            yield Fault(field="metadata.labels", reason="FieldValueInvalid", message=message)
