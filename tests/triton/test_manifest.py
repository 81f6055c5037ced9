"""A version as KServe's InferenceService: a canary by what the cluster is, and nothing that it would ignore."""

from typing import Any

import pytest

from deploy_targets.triton.manifest import backend, render_all, render_inference_service
from registry.errors import ManifestInvalid
from tests.builders import a_knative_endpoint, a_release, a_triton_endpoint

REPOSITORY = "s3://models/llm"


def standard(version: str = "7", **changes: Any) -> dict[str, Any]:
    endpoint = a_triton_endpoint(**changes)
    return dict(render_inference_service(endpoint, a_release(version), repository=REPOSITORY).body)


def knative(
    version: str = "7", *, canary_percent: int | None = None, **changes: Any
) -> dict[str, Any]:
    manifest = render_inference_service(
        a_knative_endpoint(**changes),
        a_release(version),
        repository=REPOSITORY,
        canary_percent=canary_percent,
    )
    return dict(manifest.body)


def test_in_standard_mode_each_version_is_an_object_of_its_own() -> None:
    assert [standard(version)["metadata"]["name"] for version in ("6", "7")] == [
        "chat-v6",
        "chat-v7",
    ]
    labels = standard("7")["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "chat"
    assert labels["app.kubernetes.io/version"] == "7"


def test_in_knative_mode_the_versions_are_revisions_of_one_object() -> None:
    for version in ("6", "7"):
        metadata = knative(version)["metadata"]
        assert metadata["name"] == "chat"
        assert metadata["labels"]["app.kubernetes.io/version"] == version


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_the_mode_is_said_aloud_and_a_version_has_no_address_outside(mode: str) -> None:
    metadata = (standard if mode == "Standard" else knative)()["metadata"]
    assert metadata["annotations"]["serving.kserve.io/deploymentMode"] == mode
    assert metadata["labels"]["networking.kserve.io/visibility"] == "cluster-local"


@pytest.mark.parametrize("percent", [0, 5, 100])
def test_in_knative_mode_the_canary_is_the_share_of_the_newest_revision(percent: int) -> None:
    assert knative(canary_percent=percent)["spec"]["predictor"]["canaryTrafficPercent"] == percent
    assert "canaryTrafficPercent" not in knative()["spec"]["predictor"]


def test_in_standard_mode_a_canary_is_refused_for_kserve_would_ignore_it() -> None:
    with pytest.raises(ManifestInvalid, match="Put the weight on its HTTPRoute"):
        render_inference_service(
            a_triton_endpoint(), a_release("7"), repository=REPOSITORY, canary_percent=5
        )
    assert "canary" not in str(standard())


@pytest.mark.parametrize("address", ["", "/mnt/models", "models:/llm/7", "ftp://models/llm"])
def test_a_repository_that_only_kserves_webhook_or_its_pod_would_refuse_is_refused_before(
    address: str,
) -> None:
    with pytest.raises(ManifestInvalid, match="which KServe does not know"):
        render_inference_service(a_triton_endpoint(), a_release("7"), repository=address)


@pytest.mark.parametrize("percent", [-1, 101, 500])
def test_a_share_that_only_kserves_webhook_refuses_is_refused_before(percent: int) -> None:
    with pytest.raises(ManifestInvalid, match=f"is {percent}; KServe takes 0 to 100"):
        knative(canary_percent=percent)


def test_the_new_predictor_names_its_format_and_its_runtime() -> None:
    predictor = standard()["spec"]["predictor"]
    assert "triton" not in predictor
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert model["runtime"] == "kserve-tritonserver"
    assert model["storageUri"] == REPOSITORY


def test_the_guides_wishes_arrive() -> None:
    body = standard(
        resources={"cpus": 8, "gpus": 1, "memory_gib": 16},
        triton={"container_concurrency": 4, "response_cache_bytes": 8 * 10**9},
    )
    predictor = body["spec"]["predictor"]
    assert predictor["containerConcurrency"] == 4
    limits = {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert predictor["model"]["resources"] == {"requests": limits, "limits": limits}
    assert predictor["model"]["args"] == ["--cache-config=local,size=8000000000"]
    assert "args" not in standard()["spec"]["predictor"]["model"]


def test_the_pod_reads_the_repository_with_its_service_account_and_has_no_privileges() -> None:
    endpoint = a_triton_endpoint()
    kubernetes = {**endpoint.cluster.model_dump(), "service_account": "engine"}
    predictor = standard(kubernetes=kubernetes)["spec"]["predictor"]
    assert predictor["serviceAccountName"] == "engine"
    assert predictor["automountServiceAccountToken"] is False
    context = predictor["model"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_variables_of_the_endpoint_win_over_ours() -> None:
    kubernetes = {"namespace": "llm", "env": {"OMP_NUM_THREADS": "5", "A": "1"}}
    model = knative(kubernetes=kubernetes)["spec"]["predictor"]["model"]
    assert {one["name"]: one["value"] for one in model["env"]} == kubernetes["env"]


def test_the_number_of_replicas_is_fixed_or_follows_the_requests() -> None:
    predictor = standard(replicas=3)["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (3, 3)
    scaling = {"min": 1, "max": 4, "target_ongoing_requests": 8}
    predictor = knative(replicas=scaling)["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 4)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 8)


def test_a_first_rendering_has_a_route_in_standard_mode_and_none_in_knative_mode() -> None:
    endpoint = a_triton_endpoint()
    service, route = render_all(endpoint, a_release("7"), repository=REPOSITORY)
    assert service.body["metadata"]["name"] == "chat-v7"
    split = route.body["spec"]["rules"][-1]["backendRefs"]
    assert [(one["name"], one["port"], one["weight"]) for one in split] == [
        ("chat-v7-predictor", 80, 100)
    ]
    assert backend(endpoint, "7").service == "chat-v7-predictor"
    (service,) = render_all(a_knative_endpoint(), a_release("7"), repository=REPOSITORY)
    assert service.body["metadata"]["name"] == "chat"
