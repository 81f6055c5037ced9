"""A version as KubeRay's RayService: one object for each, closed to everybody but those who need it."""

from typing import Any

import pytest
import ray
import yaml

from deploy_targets.endpoint import Endpoint
from deploy_targets.ray_serve.manifest import RAY_VERSION, backend, render_all, render_revision
from deploy_targets.ray_serve.serve_config import check_serve_config, render_application
from registry.errors import ManifestInvalid
from tests.builders import GATEWAY, a_ray_endpoint, a_release

OPERATOR_DRIVEN = {
    "kubernetes": {"namespace": "llm", "image": "engine:1"},
    "ray_serve": {
        "rollout": "operator-driven",
        "upgrade": {"gateway_class": "istio", "step_percent": 10, "interval_s": 60},
    },
}


def service(version: str = "7", **changes: Any) -> dict[str, Any]:
    return dict(render_revision(a_ray_endpoint(**changes), a_release(version))[0].body)


def policy(**changes: Any) -> dict[str, Any]:
    return dict(render_revision(a_ray_endpoint(**changes), a_release("7"))[1].body)


def pods(body: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = body["spec"]["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    return [cluster["headGroupSpec"]["template"], worker["template"]]


def containers(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [pod["spec"]["containers"][0] for pod in pods(body)]


def test_each_version_has_an_object_of_its_own_under_the_endpoints_label() -> None:
    names = [service(version)["metadata"]["name"] for version in ("6", "7")]
    assert names == ["chat-v6", "chat-v7"]
    for version in ("6", "7"):
        labels = service(version)["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "chat"
        assert labels["app.kubernetes.io/version"] == version


def test_the_serve_config_is_the_one_that_runs_locally_at_its_own_root() -> None:
    config = yaml.safe_load(service()["spec"]["serveConfigV2"])
    local = render_application(a_ray_endpoint(), a_release("7"))
    assert config["applications"] == [{**local, "route_prefix": "/"}]
    assert local["route_prefix"] == "/chat-v7"
    check_serve_config(config)


def test_nothing_is_upgraded_by_time() -> None:
    assert service()["spec"]["upgradeStrategy"] == {"type": "None"}


def test_the_dashboard_asks_for_a_token() -> None:
    cluster = service()["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == RAY_VERSION == ray.__version__
    named = service(ray_serve={"auth_secret": "ray-token"})["spec"]["rayClusterConfig"]
    assert named["authOptions"] == {"mode": "token", "secretName": "ray-token"}


def test_every_container_runs_without_root_and_without_privileges() -> None:
    body = service(replicas={"max": 2, "target_ongoing_requests": 4})
    cluster = body["spec"]["rayClusterConfig"]
    asked = [one["securityContext"] for one in (*containers(body), cluster["autoscalerOptions"])]
    assert len(asked) == 3
    for context in asked:
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_worker_is_as_large_as_its_replica_and_the_head_has_none() -> None:
    body = service(replicas=3, resources={"cpus": 16, "gpus": 1, "memory_gib": 24})
    cluster = body["spec"]["rayClusterConfig"]
    head, worker = containers(body)
    assert worker["resources"]["limits"] == {"cpu": "16", "memory": "26Gi", "nvidia.com/gpu": "1"}
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3)
    assert "enableInTreeAutoscaling" not in cluster


def test_pods_follow_the_replicas_when_these_follow_the_load() -> None:
    body = service(replicas={"min": 2, "max": 6, "target_ongoing_requests": 4})
    cluster = body["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 6)
    assert cluster["enableInTreeAutoscaling"] is True
    assert [pod["spec"]["automountServiceAccountToken"] for pod in pods(body)] == [True, False]


def test_what_pods_need_to_read_the_artifact_reaches_all_of_them() -> None:
    kubernetes = {
        "image": "engine:1",
        "env": {"MODEL_NAME": "llama2-7b", "BATCH_SIZE": "4"},
        "service_account": "engine",
        "storage_secret": "s3",
        "gateway": GATEWAY,
    }
    body = service(kubernetes=kubernetes)
    for pod, container in zip(pods(body), containers(body), strict=True):
        assert container["image"] == "engine:1"
        assert {one["name"]: one["value"] for one in container["env"]} == kubernetes["env"]
        assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
        assert pod["spec"]["serviceAccountName"] == "engine"


def test_the_old_thresholds_are_there_when_they_are_declared() -> None:
    declared = {"service_unhealthy_s": 300, "deployment_unhealthy_s": 200}
    spec = service(ray_serve=declared)["spec"]
    assert spec["serviceUnhealthySecondThreshold"] == 300
    assert spec["deploymentUnhealthySecondThreshold"] == 200
    assert not [key for key in service()["spec"] if key.endswith("Threshold")]


def test_only_ray_the_gateway_the_operator_and_prometheus_reach_the_pods() -> None:
    spec = policy()["spec"]
    labels = pods(service())[0]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    assert spec["policyTypes"] == ["Ingress"]
    assert all(rule["from"] for rule in spec["ingress"])
    itself, gateway, operator, prometheus = spec["ingress"]
    assert itself == {"from": [{"podSelector": spec["podSelector"]}]}
    assert gateway["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "gateways"
    }
    ports = [[one["port"] for one in rule["ports"]] for rule in (gateway, operator, prometheus)]
    assert ports == [[8000], [8265, 8000], [8080]]


def test_the_gateways_proxies_may_run_elsewhere() -> None:
    gateway = {**GATEWAY, "proxies_namespace": "envoy-gateway-system"}
    spec = policy(kubernetes={"image": "engine:1", "gateway": gateway})["spec"]
    assert "envoy-gateway-system" in str(spec["ingress"][1])


def test_a_first_rendering_has_a_route_to_the_service_that_kuberay_makes() -> None:
    endpoint = a_ray_endpoint()
    *_, route = render_all(endpoint, a_release("7"))
    assert route.body["kind"] == "HTTPRoute"
    split = route.body["spec"]["rules"][-1]["backendRefs"]
    assert [(one["name"], one["weight"]) for one in split] == [("chat-v7-serve-svc", 100)]
    assert backend(endpoint, "7").service == "chat-v7-serve-svc"


def test_an_operator_driven_endpoint_is_one_object_that_kuberay_moves_and_no_route_of_ours() -> (
    None
):
    endpoint = a_ray_endpoint(**OPERATOR_DRIVEN)
    rendered = {version: render_all(endpoint, a_release(version)) for version in ("6", "7")}
    for manifests in rendered.values():
        assert [one.body["kind"] for one in manifests] == ["RayService", "NetworkPolicy"]
        assert {one.body["metadata"]["name"] for one in manifests} == {"chat"}
    spec = rendered["7"][0].body["spec"]
    assert spec["upgradeStrategy"] == {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": "istio",
            "stepSizePercent": 10,
            "intervalSeconds": 60,
            "maxSurgePercent": 100,
        },
    }
    assert spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True


def test_an_operator_driven_version_is_another_cluster_and_both_stay_behind_one_policy() -> None:
    endpoint = a_ray_endpoint(**OPERATOR_DRIVEN)
    old, new = (render_revision(endpoint, a_release(version)) for version in ("6", "7"))
    clusters = [one[0].body["spec"]["rayClusterConfig"] for one in (old, new)]
    assert clusters[0] != clusters[1]
    selector = new[1].body["spec"]["podSelector"]
    assert selector == old[1].body["spec"]["podSelector"]
    for cluster in clusters:
        labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [("c" * 40, "123456", "may have 47"), ("chat", "1.2", "MLflow's own number")],
)
def test_a_name_that_operators_would_refuse_is_refused(name: str, version: str, said: str) -> None:
    render_revision(a_ray_endpoint(name="c" * 40), a_release("12345"))
    with pytest.raises(ManifestInvalid, match=said):
        render_revision(a_ray_endpoint(name=name), a_release(version))


def test_a_local_endpoint_has_nothing_for_kubernetes() -> None:
    with pytest.raises(ManifestInvalid, match="target local"):
        render_revision(Endpoint(name="chat", model="smollm2"), a_release("7"))
