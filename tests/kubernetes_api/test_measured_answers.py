"""Each answer that was measured on a real API server (1.36), given by the stand-in: one row, one test or more.

Only the API is used, so that a real server can be asked the same. What the rows do not say is in the other modules.
"""

import json
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.objects import (
    Objects,
    a_canary,
    a_ray_service,
    a_route,
    a_rule,
    an_inference_service,
    backend,
)


@pytest.fixture
def objects(cluster) -> Objects:
    return Objects(by=cluster.admin, namespace=cluster.a_namespace())


def refused(code: int, call: Any, *args: Any, **options: Any) -> dict[str, Any]:
    """The Status in which the call is refused with this code."""
    with pytest.raises(ApiException) as caught:
        call(*args, **options)
    assert caught.value.status == code, caught.value.body
    status = json.loads(caught.value.body)
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", code)
    return status


def fields(status: dict[str, Any]) -> list[str]:
    return [one["field"] for one in status["details"]["causes"]]


# Row: server-side apply of HTTPRoute: `rules` and `parentRefs` are atomic.

SHORT_PARENT = {"name": "llm"}
"""Without the group and kind that are filled in."""


def test_a_second_manager_that_changes_one_weight_gets_409_that_names_rules_and_parents(objects):
    objects.apply(a_route(backend("v6", 100), parent=SHORT_PARENT), manager="first")

    status = refused(
        409,
        objects.apply,
        a_route(backend("v6", 95), parent=SHORT_PARENT),
        manager="second",
    )

    assert status["reason"] == "Conflict"
    assert fields(status) == [".spec.parentRefs", ".spec.rules"]
    assert '"first"' in status["message"]
    assert ".spec.rules" in status["message"]


def test_after_the_second_managers_force_the_first_manager_gets_409(objects):
    objects.apply(a_route(backend("v6", 100), parent=SHORT_PARENT), manager="first")
    changed = a_route(backend("v6", 95), parent=SHORT_PARENT)
    forced = objects.apply(changed, manager="second", force=True)

    assert forced["spec"]["rules"][0]["backendRefs"][0]["weight"] == 95
    status = refused(
        409,
        objects.apply,
        a_route(backend("v6", 100), parent=SHORT_PARENT),
        manager="first",
    )
    assert fields(status) == [".spec.parentRefs", ".spec.rules"]
    assert '"second"' in status["message"]


# Row: stale PUT; watch from a too old version; no permission.


def test_a_stale_put_gets_409(objects):
    first = objects.post(a_route(backend("v6", 100)))
    objects.put({**first, "spec": a_route(backend("v6", 95))["spec"]})

    status = refused(409, objects.put, first)

    assert status["reason"] == "Conflict"
    assert "the object has been modified" in status["message"]


def test_a_watch_from_a_too_old_version_gets_410(cluster, objects):
    objects.post(a_route(backend("v6", 100)))
    place = ("gateway.networking.k8s.io", "v1", objects.namespace, "httproutes")
    api = client.CustomObjectsApi(cluster.admin)

    with pytest.raises(ApiException) as caught:
        for _ in watch.Watch().stream(
            api.list_namespaced_custom_object, *place, resource_version="1", timeout_seconds=5
        ):
            pass

    assert caught.value.status == 410
    assert "too old resource version" in caught.value.reason


def test_without_permission_the_answer_is_403(cluster, objects):
    stranger = Objects(
        by=cluster.an_account(objects.namespace, "stranger", []), namespace=objects.namespace
    )

    status = refused(403, stranger.post, a_route(backend("v6", 100)))

    assert status["reason"] == "Forbidden"
    assert status["message"] == (
        "httproutes.gateway.networking.k8s.io is forbidden: "
        f'User "system:serviceaccount:{objects.namespace}:stranger" cannot create resource "httproutes" '
        f'in API group "gateway.networking.k8s.io" in the namespace "{objects.namespace}"'
    )


# Row: unknown field: apply; POST; POST with fieldValidation=Strict.


def with_unknown_field() -> dict[str, Any]:
    route = a_route(backend("v6", 100))
    return {**route, "spec": {**route["spec"], "colour": "green"}}


def test_an_apply_with_an_unknown_field_gets_500(objects):
    status = refused(500, objects.apply, with_unknown_field())

    assert ".spec.colour: field not declared in schema" in status["message"]
    assert "reason" not in status


def test_a_post_with_an_unknown_field_is_pruned_silently(objects):
    created = objects.post(with_unknown_field())

    assert "colour" not in created["spec"]
    assert objects.get(created)["spec"] == a_route(backend("v6", 100))["spec"]


def test_a_strict_post_with_an_unknown_field_gets_400(objects):
    status = refused(400, objects.post, with_unknown_field(), field_validation="Strict")

    assert status["reason"] == "BadRequest"
    assert 'strict decoding error: unknown field "spec.colour"' in status["message"]


# Row: HTTPRoute backend without port (CEL); weight -1.


@pytest.mark.parametrize("how", ["post", "apply"])
def test_a_backend_without_port_gets_422(objects, how):
    route = a_route({"name": "chat-v6"})

    status = refused(422, getattr(objects, how), route)

    assert status["reason"] == "Invalid"
    assert fields(status) == ["spec.rules[0].backendRefs[0]"]
    assert "port" in status["message"]


@pytest.mark.parametrize("how", ["post", "apply"])
def test_a_weight_of_minus_one_gets_422(objects, how):
    status = refused(422, getattr(objects, how), a_route(backend("v6", -1)))

    assert fields(status) == ["spec.rules[0].backendRefs[0].weight"]
    assert "greater than or equal to 0" in status["message"]


# Row: RayService `upgradeStrategy.type: Bogus`; incremental upgrade without gatewayClassName.


def test_a_ray_service_with_a_bogus_upgrade_strategy_is_accepted(objects):
    created = objects.apply(a_ray_service(upgradeStrategy={"type": "Bogus"}))

    assert created["spec"]["upgradeStrategy"] == {"type": "Bogus"}


def test_an_incremental_upgrade_without_a_gateway_class_gets_422(objects):
    options = {"stepSizePercent": 10, "intervalSeconds": 30}
    upgrade = {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": options}

    status = refused(422, objects.post, a_ray_service(upgradeStrategy=upgrade))

    assert fields(status) == ["spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName"]
    assert status["details"]["causes"][0]["reason"] == "FieldValueRequired"


# Row: InferenceService canary `trafficPercent: 120`; `canaryTrafficPercent: 500`; two canaries of one name.


def test_a_canary_of_120_percent_gets_422(objects):
    status = refused(422, objects.apply, an_inference_service(canary=[a_canary(120)]))

    assert fields(status) == ["spec.canary[0].trafficPercent"]


def test_a_canary_traffic_percent_of_500_is_accepted(objects):
    created = objects.apply(an_inference_service({"canaryTrafficPercent": 500}))

    assert created["spec"]["predictor"]["canaryTrafficPercent"] == 500


def test_two_canaries_of_one_name_are_accepted(objects):
    created = objects.apply(an_inference_service(canary=[a_canary(10), a_canary(20)]))

    assert [one["trafficPercent"] for one in created["spec"]["canary"]] == [10, 20]


# Row: InferenceService `canary[].predictor.model` without `name`; `predictor.model` without `name`.


def test_a_canarys_model_without_a_name_gets_422(objects):
    status = refused(422, objects.post, an_inference_service(canary=[a_canary(10, name=None)]))

    assert fields(status) == ["spec.canary[0].predictor.model.name"]


def test_a_predictors_model_without_a_name_is_fine(objects):
    created = objects.post(an_inference_service())

    assert created["spec"]["predictor"]["model"]["modelFormat"] == {"name": "triton"}


# Row: PrometheusRule `for: five`; broken PromQL.


def test_a_rule_for_five_gets_422(objects):
    status = refused(422, objects.apply, a_rule(**{"for": "five"}))

    assert fields(status) == ["spec.groups[0].rules[0].for"]


def test_broken_promql_is_accepted(objects):
    created = objects.apply(a_rule(expr="sum by ((("))

    assert created["spec"]["groups"][0]["rules"][0]["expr"] == "sum by ((("


# Row: status patch.


def test_a_status_patch_leaves_spec_and_generation_alone(objects):
    before = objects.apply(a_ray_service())

    after = objects.merge_status(before, {"serviceStatus": "Running", "observedGeneration": 1})

    assert after["status"]["serviceStatus"] == "Running"
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
    assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
