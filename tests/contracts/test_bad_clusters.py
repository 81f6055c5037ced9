"""What may be wrong with a cluster: each is seen, told on the rollout with what to do, and never costs users an answer.

Issue 5's list of bad input, on every target; the flows and the simulated operators are those of `test_rollouts`.
"""

from pathlib import Path
from typing import Any

import pytest

from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Readiness
from tests.builders import a_release
from tests.contracts.operators import INFERENCE_SERVICES, MERGE, RAY_SERVICES, VERSION
from tests.contracts.test_rollouts import WAYS, Stage
from tests.kubernetes_api.cluster import a_cluster

ROUTED = ("ray-serve", "standard")
KINDS = {"ray-serve": RAY_SERVICES, "standard": INFERENCE_SERVICES, "knative": INFERENCE_SERVICES}


@pytest.fixture
def stage(request: pytest.FixtureRequest, cluster: Any, tmp_path: Path) -> Stage:
    return Stage(request.param, cluster, tmp_path)


@pytest.fixture
def serving(stage: Stage) -> Stage:
    stage.release("6")
    return stage


on_all = pytest.mark.parametrize("stage", list(WAYS), indirect=True)
on_routes = pytest.mark.parametrize("stage", ROUTED, indirect=True)


def told(stage: Stage, version: str = "7") -> str:
    """What the registry says about the end of that version's rollout."""
    return stage.registry.versions[version].tags["shipway.reason"]


def wait_out(stage: Stage) -> None:
    """The rollout of v7 is asked for, and the time for it to warm runs out."""
    stage.registry.aliases["challenger"] = "7"
    stage.tick(3)
    stage.clock.advance(stage.endpoint.rollout.warm_limit_s)
    stage.tick(5)


def say_of_pods(stage: Stage, version: str, status: dict[str, Any]) -> None:
    """Every pod of that version gets this status."""
    core = stage.operators._core
    for pod in core.list_namespaced_pod(
        stage.namespace, label_selector=f"{VERSION}={version}"
    ).items:
        core.patch_namespaced_pod_status(
            pod.metadata.name, stage.namespace, {"status": status}, _content_type=MERGE
        )


PULL = {
    "containerStatuses": [
        {
            "name": "engine",
            "image": "engine:nosuch",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
        }
    ]
}
MEMORY = {
    "containerStatuses": [
        {
            "name": "engine",
            "image": "engine:1",
            "imageID": "",
            "ready": False,
            "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
        }
    ]
}
NO_GPU = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        }
    ]
}


@on_all
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (PULL, ("engine:nosuch", "ImagePullBackOff", "pull secret")),
        (MEMORY, ("OOMKilled", "resources.memory_gib")),
        (NO_GPU, ("no node has a free GPU", "both versions need theirs")),
    ],
    ids=["an image that does not pull", "out of memory at load", "no GPU node"],
)
def test_a_pod_that_cannot_run_ends_the_rollout_and_is_named(
    serving: Stage, status: dict[str, Any], words: tuple[str, ...]
) -> None:
    serving.operators.slow.add("7")
    serving.registry.aliases["challenger"] = "7"
    serving.tick(2)
    say_of_pods(serving, "7", status)

    wait_out(serving)

    assert all(word in told(serving) for word in words), told(serving)
    assert serving.traffic == Traffic.all_to("6")
    assert serving.outcomes[-1] == "rolled_back"


@pytest.mark.parametrize("stage", ["standard", "knative"], indirect=True)
def test_pods_over_a_quota_end_the_rollout_and_are_named(serving: Stage) -> None:
    serving.operators.slow.add("7")
    said = 'pods "x" is forbidden: exceeded quota: gpus'
    serving.operators.refused_pods["7"] = said

    wait_out(serving)

    assert "exceeded quota: gpus. Raise the ResourceQuota" in told(serving)
    assert serving.traffic == Traffic.all_to("6")


@pytest.mark.parametrize("way", list(WAYS))
def test_a_cluster_without_the_operator_is_told_on_the_rollout(
    cluster: Any, tmp_path: Path, way: str
) -> None:
    catalogue = cluster.server.catalogue.without(KINDS[way][2])
    with a_cluster(catalogue) as bare:
        stage = Stage(way, bare, tmp_path)
        stage.registry.aliases["challenger"] = "7"
        stage.tick(5)

        operator = "KubeRay" if way == "ray-serve" else "KServe"
        assert f"Install {operator}" in told(stage)
        assert stage.outcomes == ["rolled_back"]


@pytest.mark.parametrize("way", ROUTED)
def test_a_cluster_without_the_gateway_api_is_told_on_the_rollout(
    cluster: Any, tmp_path: Path, way: str
) -> None:
    with a_cluster(cluster.server.catalogue.without("httproutes")) as bare:
        stage = Stage(way, bare, tmp_path)
        stage.registry.aliases["challenger"] = "7"
        stage.tick(5)

        assert "Install the Gateway API" in told(stage)
        assert stage.operators.items(KINDS[way]) == []


@on_routes
def test_a_route_that_no_gateway_takes_ends_the_rollout_and_is_named(stage: Stage) -> None:
    stage.operators.has_gateway = False

    wait_out(stage)

    assert "no controller has taken the route up for Gateway gateways/llm" in told(stage)
    assert stage.traffic == Traffic()


@pytest.mark.parametrize(
    ("stage", "mode"), [("standard", "Knative"), ("knative", "Standard")], indirect=["stage"]
)
def test_kserve_in_another_mode_ends_the_rollout_and_is_named(stage: Stage, mode: str) -> None:
    stage.operators.mode = mode
    stage.registry.aliases["challenger"] = "7"
    stage.tick(5)

    assert f"KServe runs it in {mode} mode" in told(stage)
    assert "triton.mode" in told(stage)
    assert stage.traffic == Traffic()


@on_all
def test_a_role_that_does_not_allow_writing_is_told_with_the_missing_rule(stage: Stage) -> None:
    groups = ["", "apps", "ray.io", "serving.kserve.io", "networking.k8s.io"]
    everything = [*groups, "gateway.networking.k8s.io"]
    rule = {"apiGroups": everything, "resources": ["*"], "verbs": ["get", "list"]}
    stage.api = stage.server.an_account(stage.namespace, "reader", [rule])
    stage.restart()
    stage.registry.aliases["challenger"] = "7"
    stage.tick(5)

    assert "verbs [patch]" in told(stage)
    assert stage.outcomes == ["rolled_back"]


@on_routes
def test_a_weight_that_somebody_else_changed_is_named_and_put_right(
    serving: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.reach("7", 25)
    custom = serving.operators._custom
    place = ("gateway.networking.k8s.io", "v1", serving.namespace, "httproutes", "chat")
    found: Any = custom.get_namespaced_custom_object(*place)
    for backend in found["spec"]["rules"][-1]["backendRefs"]:
        backend["weight"] = 50
    custom.patch_namespaced_custom_object(
        *place,
        {"spec": {"rules": found["spec"]["rules"]}},
        field_manager="somebody",
        _content_type=MERGE,
    )
    assert serving.traffic.percent("7") == 50

    serving.controller.tick(serving.unit.endpoint.name)

    assert serving.traffic.percent("7") != 50
    assert "fields.taken_back" in (out := capsys.readouterr().out)
    assert "somebody" in out


@pytest.mark.parametrize("stage", ["knative"], indirect=True)
def test_a_share_that_somebody_else_changed_is_named_and_put_right(
    serving: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    serving.reach("7", 25)
    serving.operators._custom.patch_namespaced_custom_object(
        "serving.kserve.io",
        "v1beta1",
        serving.namespace,
        "inferenceservices",
        "chat",
        {"spec": {"predictor": {"canaryTrafficPercent": 90}}},
        field_manager="somebody",
        _content_type=MERGE,
    )
    serving.operators.reconcile()
    assert serving.traffic.percent("7") == 90

    serving.controller.tick(serving.unit.endpoint.name)
    serving.operators.reconcile()

    assert serving.traffic.percent("7") != 90
    assert "somebody" in capsys.readouterr().out


@on_routes
def test_a_route_that_somebody_deleted_is_made_again_with_its_weights(serving: Stage) -> None:
    serving.operators._custom.delete_namespaced_custom_object(
        "gateway.networking.k8s.io", "v1", serving.namespace, "httproutes", "chat"
    )

    serving.controller.tick(serving.unit.endpoint.name)

    assert serving.traffic == Traffic.all_to("6")


@pytest.mark.parametrize("stage", ["ray-serve"], indirect=True)
def test_a_network_policy_that_somebody_deleted_is_made_again(serving: Stage) -> None:
    policies = ("networking.k8s.io", "v1", "networkpolicies")
    serving.operators._custom.delete_namespaced_custom_object(
        *policies[:2], serving.namespace, policies[2], "chat-v6"
    )

    serving.tick(2)

    assert [one["metadata"]["name"] for one in serving.operators.items(policies)] == ["chat-v6"]
    assert serving.traffic == Traffic.all_to("6")


@on_all
def test_an_object_of_somebody_else_is_neither_written_nor_deleted(stage: Stage) -> None:
    name = "chat" if stage.way == "knative" else "chat-v7"
    target = stage.target
    (body, *_) = [one.body for one in target.render(a_release("7"))]
    theirs = {**body, "metadata": {"name": name, "namespace": stage.namespace}}
    group, version, plural = KINDS[stage.way]
    stage.operators._custom.create_namespaced_custom_object(
        group, version, stage.namespace, plural, theirs
    )
    (before,) = stage.operators.items(KINDS[stage.way])

    stage.unit.target.retire("7")
    stage.registry.aliases["challenger"] = "7"
    stage.clock.advance(10)
    for _ in range(3):
        stage.controller.tick(stage.unit.endpoint.name)

    assert "that is not Shipway's" in told(stage)
    assert stage.operators.items(KINDS[stage.way]) == [before]


@on_routes
def test_a_route_that_was_written_by_somebody_else_is_no_reason_to_end(serving: Stage) -> None:
    """Whatever is in it: it is ours, so it is written again."""
    place = ("gateway.networking.k8s.io", "v1", serving.namespace, "httproutes", "chat")
    nonsense = {"spec": {"rules": [{"backendRefs": [{"name": "other", "port": 80}]}]}}
    serving.operators._custom.patch_namespaced_custom_object(
        *place, nonsense, field_manager="somebody", _content_type=MERGE
    )
    assert serving.traffic == Traffic()

    serving.controller.tick(serving.unit.endpoint.name)

    assert serving.traffic == Traffic.all_to("6")


@on_all
def test_a_status_about_an_older_object_is_not_believed(serving: Stage) -> None:
    """An operator that is down leaves its last word standing."""
    serving.operators.reconcile()
    serving.target.apply(a_release("7"))

    seen = serving.target.observe()

    assert seen.revisions["7"].readiness is Readiness.STARTING
    assert seen.traffic == Traffic.all_to("6")
