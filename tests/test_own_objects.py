"""Who wrote a field last, read from an object's own record."""

from typing import Any

from deploy_targets.own_objects import disturbance

RULES = frozenset({".spec.rules", ".spec.hostnames"})


def entry(manager: str, *names: str, **more: Any) -> dict[str, Any]:
    """One manager's fields below `spec`."""
    return {"manager": manager, "fieldsV1": {"f:spec": {f"f:{one}": {} for one in names}}, **more}


def a_route(*entries: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "chat", "managedFields": list(entries)}
    return {"kind": "HTTPRoute", "metadata": metadata}


def test_what_is_ours_or_ours_too_is_undisturbed() -> None:
    assert disturbance(a_route(entry("shipway", "rules", "hostnames")), RULES) == ""
    assert disturbance(a_route(entry("shipway", "rules"), entry("other", "rules")), RULES) == ""


def test_whoever_took_a_field_is_named_with_it_and_with_what_to_do() -> None:
    route = a_route(entry("shipway", "hostnames"), entry("kubectl-edit", "rules"))

    assert disturbance(route, RULES) == (
        "kubectl-edit changed .spec.rules of HTTPRoute chat, which Shipway writes. It is written again; let kubectl-edit "
        "leave these fields alone."
    )


def test_a_status_and_fields_that_are_not_ours_disturb_nobody() -> None:
    status = entry("gateway", "rules", subresource="status")
    above = {"manager": "other", "fieldsV1": {"f:metadata": {"f:labels": {"f:team": {}}}}}

    assert disturbance(a_route(entry("shipway", "hostnames"), status, above), RULES) == ""


def test_an_object_without_a_record_tells_nothing() -> None:
    assert disturbance({"kind": "HTTPRoute", "metadata": {"name": "chat"}}, RULES) == ""
