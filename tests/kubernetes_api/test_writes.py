"""What a write does to an object, asked over HTTP: metadata, generation, status, dry run, deletion."""

import base64
import datetime as dt

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.objects import (
    APPLY,
    Objects,
    a_ray_service,
    a_route,
    a_rule,
    backend,
)
from tests.kubernetes_api.test_measured_answers import fields, refused


@pytest.fixture
def objects(cluster) -> Objects:
    return Objects(by=cluster.admin, namespace=cluster.a_namespace())


def a_config_map(name: str = "settings", **data: str) -> client.V1ConfigMap:
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def test_a_new_object_gets_its_metadata_and_its_defaults(objects):
    created = objects.post(a_route({"name": "chat-v6", "port": 8000}, parent={"name": "llm"}))

    metadata = created["metadata"]
    assert metadata["namespace"] == objects.namespace
    assert metadata["generation"] == 1
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 0
    assert created["spec"]["parentRefs"][0]["group"] == "gateway.networking.k8s.io"
    assert created["spec"]["rules"][0]["backendRefs"][0]["weight"] == 1


def test_generation_grows_with_the_spec_alone(objects):
    created = objects.post(a_route(backend("v6", 100)))
    labelled = objects.merge(created, {"metadata": {"labels": {"a": "b"}}})
    moved = objects.merge(created, {"spec": a_route(backend("v6", 95))["spec"]})

    generations = [one["metadata"]["generation"] for one in (created, labelled, moved)]
    versions = [int(one["metadata"]["resourceVersion"]) for one in (created, labelled, moved)]
    assert generations == [1, 1, 2]
    assert versions == sorted(set(versions))


def test_a_write_that_changes_nothing_is_no_write(objects):
    created = objects.post(a_route(backend("v6", 100)))

    assert objects.put(created) == created
    assert objects.merge(created, {"spec": created["spec"]}) == created


def test_a_second_post_gets_409(objects):
    objects.post(a_route(backend("v6", 100)))

    assert refused(409, objects.post, a_route(backend("v6", 100)))["reason"] == "AlreadyExists"


def test_a_put_without_a_version_gets_422(objects):
    objects.post(a_route(backend("v6", 100)))

    status = refused(422, objects.put, a_route(backend("v6", 95)))

    assert fields(status) == ["metadata.resourceVersion"]


def test_a_patch_that_names_an_old_version_gets_409(objects):
    created = objects.post(a_route(backend("v6", 100)))
    objects.merge(created, {"metadata": {"labels": {"a": "b"}}})
    stale = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}}

    refused(409, objects.merge, created, {**stale, "spec": {"hostnames": ["a.example"]}})
    applied = {**a_route(backend("v6", 100)), "metadata": {"name": "chat", **stale["metadata"]}}
    refused(409, objects.apply, applied)


def test_a_write_to_what_is_not_there_gets_404(objects):
    status = refused(404, objects.merge, a_route(), {"metadata": {"labels": {"a": "b"}}})

    assert status["message"] == 'httproutes.gateway.networking.k8s.io "chat" not found'
    refused(404, objects.delete, a_route())


def test_the_status_is_written_at_its_own_address_alone(objects):
    created = objects.post({**a_ray_service(), "status": {"serviceStatus": "Running"}})
    assert "status" not in created
    objects.merge_status(created, {"serviceStatus": "Running"})

    after = objects.merge(created, {"status": {"serviceStatus": "Broken"}})

    assert after["status"] == {"serviceStatus": "Running"}


def test_a_put_of_the_status_leaves_the_rest(cluster, objects):
    created = objects.post(a_ray_service())
    body = {
        **created,
        "metadata": {**created["metadata"], "labels": {"a": "b"}},
        "spec": {**created["spec"], "serveConfigV2": "changed"},
        "status": {"serviceStatus": "Running"},
    }
    place = ("ray.io", "v1", objects.namespace, "rayservices", "chat-v7")

    after = client.CustomObjectsApi(cluster.admin).replace_namespaced_custom_object_status(
        *place, body
    )

    assert after["spec"] == created["spec"]
    assert "labels" not in after["metadata"]
    assert after["status"] == {"serviceStatus": "Running"}


def test_an_apply_after_a_status_patch_does_not_touch_the_status(objects):
    applied = objects.apply(a_ray_service())
    objects.merge_status(applied, {"serviceStatus": "Running"})

    after = objects.apply(a_ray_service(serveConfigV2="changed"))

    assert after["status"] == {"serviceStatus": "Running"}
    assert after["metadata"]["generation"] == 2


def test_a_dry_run_says_what_would_be_and_does_nothing(objects):
    planned = objects.post(a_route(backend("v6", 100)), dry_run="All")

    assert planned["spec"]["rules"][0]["backendRefs"][0]["weight"] == 100
    refused(422, objects.post, a_route(backend("v6", -1)), dry_run="All")
    refused(404, objects.get, planned)


def test_a_dry_run_of_an_apply_shows_the_difference(cluster, objects):
    applied = objects.apply(a_route(backend("v6", 100)))

    planned = objects.apply(a_route(backend("v6", 95)), dry_run="All")

    assert planned["spec"]["rules"][0]["backendRefs"][0]["weight"] == 95
    assert planned["metadata"]["generation"] == 2
    assert objects.get(applied) == applied
    objects.delete(applied, dry_run="All")
    assert objects.get(applied) == applied


def test_a_list_written_out_in_full_conflicts_only_where_it_differs(objects):
    objects.apply(a_route(backend("v6", 100)), manager="first")

    status = refused(409, objects.apply, a_route(backend("v6", 95)), manager="second")

    assert fields(status) == [".spec.rules"]


def test_an_edit_by_hand_takes_the_field_and_the_next_apply_conflicts(objects):
    applied = objects.apply(a_route(backend("v6", 100)))
    objects.merge(applied, {"spec": a_route(backend("v6", 50))["spec"]}, field_manager="somebody")

    status = refused(409, objects.apply, a_route(backend("v6", 95)))

    assert 'conflict with "somebody" using gateway.networking.k8s.io/v1 at ' in status["message"]


def test_an_apply_with_a_wrong_type_gets_500_and_a_post_422(objects):
    route = a_route(backend("v6", 100, port="http"))

    assert "expected integer" in refused(500, objects.apply, route)["message"]
    assert fields(refused(422, objects.post, route)) == ["spec.rules[0].backendRefs[0].port"]


def test_an_apply_needs_a_manager(cluster, objects):
    api = client.CustomObjectsApi(cluster.admin)
    place = ("gateway.networking.k8s.io", "v1", objects.namespace, "httproutes", "chat")

    status = refused(
        422, api.patch_namespaced_custom_object, *place, a_route(), _content_type=APPLY
    )

    assert fields(status) == ["fieldManager"]


def test_a_strategic_merge_patch_is_for_kubernetes_own_kinds_alone(cluster, objects):
    created = objects.post(a_rule())
    api = client.CustomObjectsApi(cluster.admin)
    place = ("monitoring.coreos.com", "v1", objects.namespace, "prometheusrules")
    name = created["metadata"]["name"]
    strategic = "application/strategic-merge-patch+json"

    refused(415, api.patch_namespaced_custom_object, *place, name, {}, _content_type=strategic)


def test_an_object_with_finalizers_waits_for_them(objects):
    body = a_route(backend("v6", 100))
    created = objects.post({**body, "metadata": {"name": "chat", "finalizers": ["shipway/wait"]}})

    waiting = objects.delete(created)

    assert waiting["metadata"]["deletionTimestamp"]
    assert waiting["metadata"]["generation"] == 2
    assert objects.get(created)["spec"] == created["spec"]
    objects.merge(created, {"metadata": {"finalizers": None}})
    refused(404, objects.get, created)


def test_a_deletion_that_means_another_object_gets_409(objects):
    created = objects.post(a_route(backend("v6", 100)))
    other = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))

    refused(409, objects.delete, created, body=other)

    assert objects.delete(created)["status"] == "Success"


def owned_by(owner: dict, *others: str) -> list[client.V1OwnerReference]:
    uids = (owner["metadata"]["uid"], *others)
    return [
        client.V1OwnerReference(api_version="ray.io/v1", kind="RayService", name="chat-v7", uid=uid)
        for uid in uids
    ]


def test_what_is_owned_goes_with_its_owner(cluster, objects):
    core = client.CoreV1Api(cluster.admin)
    owner = objects.post(a_ray_service())
    for name, owners in (("owned", owned_by(owner)), ("free", None)):
        body = a_config_map(name)
        body.metadata.owner_references = owners
        core.create_namespaced_config_map(objects.namespace, body)

    objects.delete(owner)

    left = core.list_namespaced_config_map(objects.namespace).items
    assert [one.metadata.name for one in left] == ["free"]


def test_orphans_stay_without_their_owner(cluster, objects):
    core = client.CoreV1Api(cluster.admin)
    owner = objects.post(a_ray_service())
    body = a_config_map("owned")
    body.metadata.owner_references = owned_by(owner)
    core.create_namespaced_config_map(objects.namespace, body)

    objects.delete(owner, propagation_policy="Orphan")

    left = core.read_namespaced_config_map("owned", objects.namespace)
    assert left.metadata.owner_references is None


def test_what_has_another_owner_stays(cluster, objects):
    core = client.CoreV1Api(cluster.admin)
    owner = objects.post(a_ray_service())
    other = objects.post({**a_ray_service(), "metadata": {"name": "chat-v8"}})
    body = a_config_map("owned")
    body.metadata.owner_references = owned_by(owner, other["metadata"]["uid"])
    core.create_namespaced_config_map(objects.namespace, body)

    objects.delete(owner)

    (left,) = core.read_namespaced_config_map("owned", objects.namespace).metadata.owner_references
    assert left.uid == other["metadata"]["uid"]


def test_a_foreground_deletion_is_not_built_and_says_so(objects):
    created = objects.post(a_ray_service())

    status = refused(501, objects.delete, created, propagation_policy="Foreground")

    assert "Foreground" in status["message"]


def test_nothing_is_made_in_a_namespace_that_is_not_there(cluster):
    objects = Objects(by=cluster.admin, namespace="nowhere")

    for write in (objects.post, objects.apply):
        assert refused(404, write, a_route(backend("v6", 100)))["message"] == (
            'namespaces "nowhere" not found'
        )


@pytest.mark.stand_in("its inside")
def test_a_namespace_goes_with_all_that_is_in_it(cluster, objects):
    objects.post(a_route(backend("v6", 100)))

    client.CoreV1Api(cluster.admin).delete_namespace(objects.namespace)

    assert [key for key in cluster.server.store.objects if key.namespace == objects.namespace] == []


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "Chat_1"}, "metadata.name"),
        ({"name": "chat", "labels": {"a": "not a label"}}, "metadata.labels"),
        ({}, "metadata.name"),
    ],
)
def test_metadata_is_checked(objects, metadata, field):
    status = refused(422, objects.post, {**a_route(backend("v6", 100)), "metadata": metadata})

    assert field in fields(status)


@pytest.mark.parametrize(
    "metadata", [{"name": "chat", "labels": {"a": 1}}, {"name": "chat", "labels": "a"}, ["chat"]]
)
def test_what_is_no_metadata_gets_400(objects, metadata):
    refused(400, objects.post, {**a_route(backend("v6", 100)), "metadata": metadata})


def test_an_object_of_another_kind_than_its_address_gets_400(cluster, objects):
    api = client.CustomObjectsApi(cluster.admin)
    place = ("gateway.networking.k8s.io", "v1", objects.namespace, "gateways")

    refused(400, api.create_namespaced_custom_object, *place, a_route(backend("v6", 100)))


def test_a_kind_whose_crd_is_not_installed_gets_404_without_a_status(cluster, objects):
    api = client.CustomObjectsApi(cluster.admin)

    with pytest.raises(ApiException) as caught:
        api.list_namespaced_custom_object("gone.example", "v1", objects.namespace, "things")

    assert (caught.value.status, caught.value.body.strip()) == (404, "404 page not found")


def test_a_secrets_texts_are_kept_encoded(cluster, objects):
    core = client.CoreV1Api(cluster.admin)
    metadata = client.V1ObjectMeta(name="token")
    body = client.V1Secret(metadata=metadata, string_data={"token": "abc"})

    core.create_namespaced_secret(objects.namespace, body)

    read = core.read_namespaced_secret("token", objects.namespace)
    assert base64.b64decode(read.data["token"]) == b"abc"
    assert (read.string_data, read.type) == (None, "Opaque")


def test_of_two_that_renew_a_lease_one_gets_409(cluster, objects):
    leases = client.CoordinationV1Api(cluster.admin)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15)
    metadata = client.V1ObjectMeta(name="controller")
    body = client.V1Lease(metadata=metadata, spec=spec)
    lease = leases.create_namespaced_lease(objects.namespace, body)
    lease.spec.holder_identity = "b"
    leases.replace_namespaced_lease("controller", objects.namespace, lease)
    lease.spec.holder_identity = "c"

    refused(409, leases.replace_namespaced_lease, "controller", objects.namespace, lease)

    left = leases.read_namespaced_lease("controller", objects.namespace)
    assert left.spec.holder_identity == "b"


def test_a_lease_of_no_seconds_gets_422(cluster, objects):
    leases = client.CoordinationV1Api(cluster.admin)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=0)
    body = client.V1Lease(metadata=client.V1ObjectMeta(name="controller"), spec=spec)

    status = refused(422, leases.create_namespaced_lease, objects.namespace, body)

    assert fields(status) == ["spec.leaseDurationSeconds"]


def test_a_leases_time_on_a_whole_second_gets_400(cluster, objects):
    """As Kubernetes reads it: exactly six digits are wanted, and the client leaves out those that are zero."""
    leases = client.CoordinationV1Api(cluster.admin)
    whole = dt.datetime(2026, 11, 25, 7, tzinfo=dt.UTC)

    def lease(renewed: dt.datetime) -> client.V1Lease:
        spec = client.V1LeaseSpec(holder_identity="a", renew_time=renewed)
        return client.V1Lease(metadata=client.V1ObjectMeta(name="controller"), spec=spec)

    status = refused(400, leases.create_namespaced_lease, objects.namespace, lease(whole))

    assert "spec.renewTime" in status["message"]
    created = leases.create_namespaced_lease(objects.namespace, lease(whole.replace(microsecond=1)))
    assert created.spec.renew_time == whole.replace(microsecond=1)


def test_a_config_map_is_replaced_without_a_version_and_by_a_strategic_patch(cluster, objects):
    core = client.CoreV1Api(cluster.admin)
    core.create_namespaced_config_map(objects.namespace, a_config_map(a="1"))
    core.replace_namespaced_config_map("settings", objects.namespace, a_config_map(a="2"))
    patch = {"data": {"b": "3"}}

    core.patch_namespaced_config_map("settings", objects.namespace, patch)

    assert core.read_namespaced_config_map("settings", objects.namespace).data == {
        "a": "2",
        "b": "3",
    }


def test_a_pods_status_is_written_apart(cluster, objects):
    core = client.CoreV1Api(cluster.admin)
    container = client.V1Container(name="engine", image="engine:1")
    pod = client.V1Pod(
        metadata=client.V1ObjectMeta(name="engine"), spec=client.V1PodSpec(containers=[container])
    )
    core.create_namespaced_pod(objects.namespace, pod)
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    status = {
        "phase": "Pending",
        "containerStatuses": [
            {
                "name": "engine",
                "image": "engine:1",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": waiting,
            }
        ],
    }

    core.patch_namespaced_pod_status(
        "engine",
        objects.namespace,
        {"status": status},
        _content_type="application/merge-patch+json",
    )

    read = core.read_namespaced_pod("engine", objects.namespace)
    (seen,) = read.status.container_statuses
    assert (read.status.phase, seen.state.waiting.reason) == ("Pending", "ImagePullBackOff")


def test_a_network_policy_and_a_service_are_applied_by_key(cluster, objects):
    core, networking = client.CoreV1Api(cluster.admin), client.NetworkingV1Api(cluster.admin)
    ports = [{"port": 80, "name": "http"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "guard"},
        "spec": {"selector": {"app": "guard"}, "ports": ports},
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    options = {"field_manager": "shipway", "_content_type": APPLY}

    made = core.patch_namespaced_service("guard", objects.namespace, service, **options)
    guarded = networking.patch_namespaced_network_policy(
        "guard", objects.namespace, policy, **options
    )

    assert made.spec.ports[0].protocol == "TCP"
    assert guarded.metadata.generation == 1
    assert guarded.spec.policy_types == ["Ingress"]
