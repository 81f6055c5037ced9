"""The simulated operators, written through the API: each kind ready, slow, stale, flapping and failing."""

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.kubernetes_api.cluster import a_cluster
from tests.kubernetes_api.objects import (
    Objects,
    a_canary,
    a_ray_service,
    a_route,
    an_inference_service,
    backend,
)
from tests.kubernetes_api.operators.behaviour import (
    NEVER,
    Stage,
    failing,
    flapping,
    refused,
    slow,
    stale,
)
from tests.kubernetes_api.operators.writers import Operators

SERVE = """
applications:
  - name: chat
    deployments:
      - name: llm-deployment
"""


@pytest.fixture
def objects(cluster) -> Objects:
    return Objects(by=cluster.admin, namespace=cluster.a_namespace())


@pytest.fixture
def operators(cluster, objects) -> Operators:
    return Operators(cluster.admin, objects.namespace)


def conditions(status: dict) -> dict[str, str]:
    return {one["type"]: one["status"] for one in status["conditions"]}


def knative(**predictor) -> dict:
    body = an_inference_service(predictor)
    mode = {"serving.kserve.io/deploymentMode": "Knative"}
    return {**body, "metadata": {"name": "chat", "annotations": mode}}


def test_behaviours_go_round_by_round():
    def stages(behaviour, count=5):
        return [behaviour.at(number).stage for number in range(count)]

    assert stages(slow(2)) == [Stage.PROGRESSING] * 2 + [Stage.READY] * 3
    assert stages(failing(after=1)) == [Stage.PROGRESSING] + [Stage.FAILED] * 4
    assert stages(flapping(good=2, bad=1)) == [
        Stage.READY,
        Stage.READY,
        Stage.FAILED,
        Stage.READY,
        Stage.READY,
    ]
    assert [stale(1).at(number).is_stale for number in range(2)] == [True, False]


# RayService


def test_a_ray_service_runs_with_its_applications(objects, operators):
    body = objects.apply(a_ray_service(serveConfigV2=SERVE))

    operators.step()

    status = objects.get(body)["status"]
    assert (status["serviceStatus"], status["observedGeneration"]) == ("Running", 1)
    assert conditions(status) == {"Ready": "True", "UpgradeInProgress": "False"}
    (application,) = status["activeServiceStatus"]["applicationStatuses"].values()
    assert application["status"] == "RUNNING"
    assert application["serveDeploymentStatuses"]["llm-deployment"]["status"] == "HEALTHY"


def test_a_slow_ray_service_is_pending_until_it_runs(objects, operators):
    body = objects.apply(a_ray_service(serveConfigV2=SERVE))
    operators.behave("RayService", "chat-v7", slow(1))
    operators.step()
    pending = objects.get(body)["status"]
    operators.step()

    assert pending["serviceStatus"] == ""
    assert conditions(pending)["Ready"] == "False"
    assert pending["pendingServiceStatus"]["applicationStatuses"]["chat"]["status"] == "DEPLOYING"
    assert pending["activeServiceStatus"] == {}
    assert objects.get(body)["status"]["serviceStatus"] == "Running"


def test_a_ray_service_that_cannot_be_deployed_says_why(objects, operators):
    body = objects.apply(a_ray_service(serveConfigV2=SERVE))
    operators.behave("RayService", "chat-v7", failing(message="CUDA out of memory"))

    operators.step(3)

    status = objects.get(body)["status"]
    application = status["pendingServiceStatus"]["applicationStatuses"]["chat"]
    assert (application["status"], application["message"]) == (
        "DEPLOY_FAILED",
        "CUDA out of memory",
    )


def test_a_flapping_ray_service_stays_active_while_it_is_unhealthy(objects, operators):
    body = objects.apply(a_ray_service(serveConfigV2=SERVE))
    operators.behave("RayService", "chat-v7", flapping())
    seen = []
    for _ in range(4):
        operators.step()
        status = objects.get(body)["status"]
        application = status["activeServiceStatus"]["applicationStatuses"]["chat"]
        seen.append((conditions(status)["Ready"], application["status"]))

    assert seen == [("True", "RUNNING"), ("False", "UNHEALTHY")] * 2


def test_a_stale_ray_service_speaks_of_the_generation_before(objects, operators):
    body = objects.apply(a_ray_service(serveConfigV2=SERVE))
    operators.step()
    operators.behave("RayService", "chat-v7", stale(2))
    changed = objects.apply(a_ray_service(serveConfigV2=SERVE, rayClusterDeletionDelaySeconds=5))
    operators.step()
    behind = objects.get(body)["status"]
    operators.step(2)

    assert changed["metadata"]["generation"] == 2
    assert (behind["observedGeneration"], behind["serviceStatus"]) == (1, "Running")
    assert objects.get(body)["status"]["observedGeneration"] == 2


def test_what_ray_failed_to_deploy_it_does_not_try_again_until_the_object_changes(
    objects, operators
):
    body = objects.apply(a_ray_service(serveConfigV2=SERVE))
    operators.behave("RayService", "chat-v7", failing())
    operators.step()
    operators.behave("RayService", "chat-v7", slow(0))
    operators.step()
    given_up = objects.get(body)["status"]
    objects.apply(a_ray_service(serveConfigV2=SERVE, rayClusterDeletionDelaySeconds=5))
    operators.step()

    assert "applicationStatuses" in given_up["pendingServiceStatus"]
    assert objects.get(body)["status"]["serviceStatus"] == "Running"


def test_a_new_object_that_nobody_has_seen_has_no_status(objects, operators):
    body = objects.apply(a_ray_service())
    operators.behave("RayService", "chat-v7", stale(1))

    operators.step()

    assert "status" not in objects.get(body)


# InferenceService, Standard


def deployment(cluster, objects) -> client.V1Deployment:
    return client.AppsV1Api(cluster.admin).read_namespaced_deployment(
        "chat-v7-predictor", objects.namespace
    )


def test_a_standard_inference_service_is_ready_with_its_deployment(cluster, objects, operators):
    body = objects.apply(an_inference_service({"minReplicas": 2}))

    operators.step()

    status = objects.get(body)["status"]
    assert conditions(status)["Ready"] == "True"
    assert status["modelStatus"]["transitionStatus"] == "UpToDate"
    made = deployment(cluster, objects)
    assert (made.status.available_replicas, made.status.observed_generation) == (2, 1)
    assert made.metadata.owner_references[0].uid == body["metadata"]["uid"]


def test_ready_stays_true_in_mid_rollout_while_the_model_is_not_up_to_date(
    cluster, objects, operators
):
    body = objects.apply(an_inference_service())
    operators.step()
    operators.behave("InferenceService", "chat-v7", slow(1))
    model = {"modelFormat": {"name": "triton"}, "storageUri": "s3://models/next"}
    objects.apply(an_inference_service({"model": model}))
    operators.step()

    status, made = objects.get(body)["status"], deployment(cluster, objects)

    assert conditions(status)["Ready"] == "True"
    assert status["modelStatus"]["transitionStatus"] == "InProgress"
    assert made.metadata.generation == status["observedGeneration"] == 2
    assert (made.status.updated_replicas, made.status.unavailable_replicas) == (1, 1)
    operators.step()
    assert objects.get(body)["status"]["modelStatus"]["transitionStatus"] == "UpToDate"


def test_the_observed_generation_is_the_deployments(cluster, objects, operators):
    body = objects.apply(an_inference_service())
    objects.apply(an_inference_service({"timeout": 60}))

    operators.step()

    after = objects.get(body)
    assert (after["metadata"]["generation"], after["status"]["observedGeneration"]) == (2, 1)


def test_a_model_that_does_not_load_blocks(cluster, objects, operators):
    body = objects.apply(an_inference_service())
    operators.behave("InferenceService", "chat-v7", failing(message="no such object in S3"))

    operators.step()

    status = objects.get(body)["status"]
    assert conditions(status)["Ready"] == "False"
    assert status["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    assert status["modelStatus"]["lastFailureInfo"]["message"] == "no such object in S3"
    (progressing,) = (
        one for one in deployment(cluster, objects).status.conditions if one.type == "Progressing"
    )
    assert (progressing.status, progressing.reason) == ("False", "ProgressDeadlineExceeded")


def test_canaries_of_standard_mode_have_statuses_of_their_own(objects, operators):
    body = objects.apply(an_inference_service(canary=[a_canary(10)]))

    operators.step()

    assert objects.get(body)["status"]["canaryStatuses"] == [
        {"name": "canary", "ready": True, "trafficPercent": 10}
    ]


def test_the_canary_percent_of_knative_acts_on_nothing_in_standard_mode(objects, operators):
    body = objects.apply(an_inference_service({"canaryTrafficPercent": 10}))

    operators.step()

    assert "traffic" not in objects.get(body)["status"]["components"]["predictor"]


def test_the_deployment_goes_with_its_inference_service(cluster, objects, operators):
    body = objects.apply(an_inference_service())
    operators.step()

    objects.delete(body)

    with pytest.raises(ApiException) as caught:
        deployment(cluster, objects)
    assert caught.value.status == 404


@pytest.mark.parametrize(("mode", "asked"), [("Knative", "Standard"), ("Standard", "Knative")])
def test_a_cluster_with_one_mode_alone_runs_everything_in_it(objects, operators, mode, asked):
    operators.mode = mode
    body = objects.apply(knative() if asked == "Knative" else an_inference_service())

    operators.step()

    assert objects.get(body)["status"]["deploymentMode"] == mode


# InferenceService, Knative


def component(objects: Objects) -> dict:
    return objects.get(knative())["status"]["components"]["predictor"]


def shares(objects: Objects) -> dict[str, int]:
    return {one["revisionName"]: one["percent"] for one in component(objects)["traffic"]}


def next_model(**predictor) -> dict:
    model = {"modelFormat": {"name": "triton"}, "storageUri": "s3://models/next"}
    return knative(model=model, **predictor)


def test_a_knative_canary_gets_its_share_and_the_rest_stays(objects, operators):
    objects.apply(knative())
    operators.step()
    assert shares(objects) == {"chat-predictor-00001": 100}
    objects.apply(next_model(canaryTrafficPercent=5))
    operators.step()
    assert shares(objects) == {"chat-predictor-00002": 5, "chat-predictor-00001": 95}
    objects.apply(next_model(canaryTrafficPercent=50))
    operators.step()
    assert shares(objects) == {"chat-predictor-00002": 50, "chat-predictor-00001": 50}
    assert component(objects)["latestRolledoutRevision"] == "chat-predictor-00001"
    objects.apply(next_model())
    operators.step()

    assert shares(objects) == {"chat-predictor-00002": 100}
    assert component(objects)["latestRolledoutRevision"] == "chat-predictor-00002"
    assert component(objects)["previousRolledoutRevision"] == "chat-predictor-00001"


def test_a_slow_knative_revision_is_created_but_not_ready(objects, operators):
    objects.apply(knative())
    operators.step()
    operators.behave("InferenceService", "chat", slow(1))
    objects.apply(next_model(canaryTrafficPercent=5))

    operators.step()

    assert component(objects)["latestCreatedRevision"] == "chat-predictor-00002"
    assert component(objects)["latestReadyRevision"] == "chat-predictor-00001"
    assert shares(objects) == {"chat-predictor-00001": 100}
    assert conditions(objects.get(knative())["status"])["Ready"] == "Unknown"


def test_a_stale_knative_service_knows_nothing_of_the_new_revision(objects, operators):
    objects.apply(knative())
    operators.step()
    operators.behave("InferenceService", "chat", stale(1))
    objects.apply(next_model(canaryTrafficPercent=5))
    operators.step()

    assert component(objects)["latestCreatedRevision"] == "chat-predictor-00001"
    assert objects.get(knative())["status"]["observedGeneration"] == 1
    operators.step()
    assert shares(objects) == {"chat-predictor-00002": 5, "chat-predictor-00001": 95}


def test_while_the_newest_is_not_ready_its_share_goes_to_the_newest_that_is(objects, operators):
    objects.apply(knative())
    operators.step()
    objects.apply(next_model(canaryTrafficPercent=5))
    operators.step()
    operators.behave("InferenceService", "chat", NEVER)
    model = {"modelFormat": {"name": "triton"}, "storageUri": "s3://models/third"}
    objects.apply(knative(model=model, canaryTrafficPercent=50))
    operators.step()

    assert component(objects)["latestCreatedRevision"] == "chat-predictor-00003"
    assert shares(objects) == {"chat-predictor-00002": 50, "chat-predictor-00001": 50}


def test_a_revision_has_pods_while_it_is_the_newest_or_gets_requests(cluster, objects, operators):
    objects.apply(knative())
    operators.step()
    objects.apply(next_model(canaryTrafficPercent=0))
    operators.step()

    def replicas() -> dict[str, tuple[int, int]]:
        found = client.AppsV1Api(cluster.admin).list_namespaced_deployment(objects.namespace)
        return {
            one.metadata.name[-16:-11]: (one.spec.replicas, one.status.available_replicas)
            for one in found.items
        }

    assert replicas() == {"00001": (1, 1), "00002": (1, 1)}
    objects.apply(next_model())
    operators.step()
    assert replicas() == {"00001": (0, 0), "00002": (1, 1)}


# HTTPRoute


def parents(objects: Objects) -> list[tuple[str, str, int]]:
    (parent,) = objects.get(a_route())["status"]["parents"]
    return [(one["type"], one["status"], one["observedGeneration"]) for one in parent["conditions"]]


def test_a_route_is_accepted_and_resolved(objects, operators):
    objects.apply(a_route(backend("v6", 100)))

    operators.step()

    assert parents(objects) == [("Accepted", "True", 1), ("ResolvedRefs", "True", 1)]


def test_a_route_that_nobody_has_judged_yet_is_unknown(objects, operators):
    objects.apply(a_route(backend("v6", 100)))
    operators.behave("HTTPRoute", "chat", NEVER)

    operators.step(3)

    assert parents(objects) == [("Accepted", "Unknown", 1), ("ResolvedRefs", "Unknown", 1)]


@pytest.mark.parametrize(
    ("reason", "accepted", "resolved"),
    [("BackendNotFound", "True", "False"), ("NotAllowedByListeners", "False", "True")],
)
def test_a_route_is_refused_for_what_it_refers_to_or_as_a_whole(
    objects, operators, reason, accepted, resolved
):
    objects.apply(a_route(backend("v6", 100)))
    operators.behave("HTTPRoute", "chat", failing(reason=reason))

    operators.step()

    assert parents(objects) == [("Accepted", accepted, 1), ("ResolvedRefs", resolved, 1)]


def test_a_stale_route_is_accepted_as_it_was(objects, operators):
    objects.apply(a_route(backend("v6", 100)))
    operators.step()
    operators.behave("HTTPRoute", "chat", stale(1))
    objects.apply(a_route(backend("v6", 95), backend("v7", 5)))
    operators.step()

    assert parents(objects) == [("Accepted", "True", 1), ("ResolvedRefs", "True", 1)]
    operators.step()
    assert parents(objects) == [("Accepted", "True", 2), ("ResolvedRefs", "True", 2)]


def test_a_conditions_time_moves_only_with_its_status(cluster, objects):
    times = iter(f"2026-11-25T07:00:{second:02}Z" for second in range(60))
    operators = Operators(cluster.admin, objects.namespace, now=lambda: next(times))
    body = objects.apply(a_ray_service())
    operators.behave("RayService", "chat-v7", flapping(good=2))

    seen = []
    for _ in range(3):
        operators.step()
        (ready, _) = objects.get(body)["status"]["conditions"]
        seen.append(ready["lastTransitionTime"][-3:-1])

    assert seen == ["00", "00", "02"]


# Pods

LABELS = {"app.kubernetes.io/version": "7"}


def labelled(kind: str) -> dict:
    if kind == "RayService":
        body = a_ray_service()
        head = body["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
        head["metadata"] = {"labels": LABELS}
    else:
        body = an_inference_service() if kind == "Standard" else knative()
    return {**body, "metadata": {**body["metadata"], "labels": LABELS}}


def pods(cluster, objects) -> list:
    return client.CoreV1Api(cluster.admin).list_namespaced_pod(objects.namespace).items


@pytest.mark.parametrize("kind", ["RayService", "Standard", "Knative"])
def test_a_pod_has_the_labels_of_its_version_and_goes_with_its_owner(
    cluster, objects, operators, kind
):
    body = objects.apply(labelled(kind))
    operators.step()
    (pod,) = pods(cluster, objects)
    operators.kill_pods("7")
    operators.kill_pods("7")
    (killed,) = pods(cluster, objects)
    operators.pods_say("7", {"phase": "Pending"})
    (told,) = pods(cluster, objects)
    objects.delete(body)
    operators.step()

    assert LABELS.items() <= pod.metadata.labels.items()
    assert killed.status.container_statuses[0].restart_count == 2
    assert told.status.phase == "Pending"
    assert pods(cluster, objects) == []


@pytest.mark.parametrize("kind", ["RayService", "Standard", "Knative"])
def test_pods_that_may_not_be_made_are_told_where_their_makers_tell_it(
    cluster, objects, operators, kind
):
    body = objects.apply(labelled(kind))
    operators.behave_to("7", refused("exceeded quota: gpus"))

    operators.step()

    made = client.AppsV1Api(cluster.admin).list_namespaced_deployment(objects.namespace).items
    said = [one.message for each in made for one in each.status.conditions]
    if kind == "RayService":
        pending = objects.get(body)["status"]["pendingServiceStatus"]
        said = [one["message"] for one in pending["rayClusterStatus"]["conditions"]]
    assert "exceeded quota: gpus" in said
    assert pods(cluster, objects) == []


# The writers


def test_in_steady_state_the_operators_write_nothing(cluster, objects, operators):
    bodies = (a_ray_service(), an_inference_service(), a_route(backend("v6", 1)), knative())
    for body in bodies:
        objects.apply(body)

    def versions() -> list[str]:
        made = client.AppsV1Api(cluster.admin).list_namespaced_deployment(objects.namespace).items
        written = [*made, *pods(cluster, objects)]
        return [
            *(objects.get(body)["metadata"]["resourceVersion"] for body in bodies),
            *(one.metadata.resource_version for one in written),
        ]

    operators.step()
    before = versions()

    operators.step(3)

    assert versions() == before


def test_an_operator_that_is_absent_says_nothing(objects, operators):
    route, service = objects.apply(a_route(backend("v6", 1))), objects.apply(a_ray_service())
    operators.absent.add("HTTPRoute")

    operators.step()

    assert "status" not in objects.get(route)
    assert "status" in objects.get(service)


@pytest.mark.stand_in("faults on demand")
def test_they_work_by_themselves_through_faults_and_absence(cluster, objects, operators):
    body = objects.apply(a_ray_service())
    cluster.server.faults.answer_next(500, times=3)
    cluster.server.faults.conflict_next_writes(2)
    cluster.server.go_away()
    with operators.working():
        cluster.server.come_back()
        cluster.server.wait_until(
            lambda store: any(
                one.get("status", {}).get("serviceStatus") == "Running"
                for one in store.objects.values()
            )
        )

    assert cluster.server.faults.left == 0
    assert objects.get(body)["status"]["serviceStatus"] == "Running"


@pytest.mark.stand_in("a cluster without a CRD")
def test_without_a_crd_they_write_the_others(cluster, objects):
    with a_cluster(cluster.server.catalogue.without("inferenceservices")) as bare:
        inside = Objects(by=bare.admin, namespace="default")
        body = inside.apply(a_ray_service())
        Operators(bare.admin, "default").step()

        assert inside.get(body)["status"]["serviceStatus"] == "Running"
