"""`shipway render`: everything that would be applied, without a server."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from deploy_targets.endpoint import Endpoint
from deploy_targets.rendering import render_documents
from registry.errors import BadInput, ManifestInvalid
from tests.builders import (
    GATEWAY,
    a_knative_endpoint,
    a_ray_endpoint,
    a_triton_endpoint,
    an_endpoint,
)
from tests.repo.reference import ROOT


def documents(*endpoints: Endpoint, source: str | None = "s3://models/llm") -> dict[str, str]:
    return render_documents(endpoints, version="7", source=source, registry=None)


def test_each_object_is_a_document_of_its_own() -> None:
    other = {"namespace": "llm", "gateway": {**GATEWAY, "hostname": "other.example.com"}}
    triton = a_triton_endpoint(name="other", model="other", kubernetes=other)
    local = Endpoint(name="local", model="local")
    assert list(documents(a_ray_endpoint(), triton, local)) == [
        "chat-v7.rayservice.yaml",
        "chat-v7.networkpolicy.yaml",
        "chat.httproute.yaml",
        "other-v7.inferenceservice.yaml",
        "other.httproute.yaml",
        "local-v7.serve.yaml",
        "local-v7.routes.yaml",
        "llm-monitoring.prometheusrule.yaml",
        "llm-monitoring.podmonitor.yaml",
        "other-v7.config.pbtxt",
    ]


def test_what_belongs_into_tritons_repository_is_written_but_is_no_document_for_a_cluster() -> None:
    vllm = a_triton_endpoint(engine={"kind": "vllm"}, resources={"gpus": 1})
    texts = documents(vllm)
    beside = {name: text for name, text in texts.items() if not name.endswith(".yaml")}
    assert list(beside) == ["chat-v7.config.pbtxt", "chat-v7.model.json"]
    assert 'backend: "vllm"' in beside["chat-v7.config.pbtxt"]
    assert json.loads(beside["chat-v7.model.json"])["model"] == "/mnt/models/chat/7/checkpoint"


def test_on_the_local_triton_it_is_the_repositorys_configuration_and_the_route() -> None:
    endpoint = Endpoint.model_validate(
        {"name": "chat", "model": "smollm2", "target": "local-triton"}
    )
    texts = documents(endpoint)
    assert "chat-v7.routes.yaml" in texts
    assert 'backend: "python"' in texts["chat-v7.config.pbtxt"]


def test_two_endpoints_that_render_one_object_are_refused() -> None:
    knative = a_knative_endpoint(name="chat-v7", model="other")
    with pytest.raises(ManifestInvalid, match="InferenceService chat-v7 in namespace llm"):
        documents(a_triton_endpoint(), knative)


def test_a_triton_repository_has_to_be_named() -> None:
    with pytest.raises(BadInput, match="Name the repository with --source"):
        documents(a_triton_endpoint(), source=None)


def test_a_local_endpoint_is_rendered_as_before() -> None:
    texts = documents(an_endpoint())
    assert yaml.safe_load(texts["chat-v7.serve.yaml"])["route_prefix"] == "/chat-v7"
    assert "x-shipway-version" in texts["chat-v7.routes.yaml"]


@pytest.fixture(scope="module")
def guide() -> dict[tuple[str, str], Any]:
    """What the guide's endpoint file prints, by kind and name."""
    command = "render -f examples/guide/endpoints.yaml --all --version 1 --source s3://models/llm"
    done = subprocess.run(
        [sys.executable, "-m", "deploy_targets.cli", *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    read = yaml.safe_load_all(done.stdout)
    return {(one["kind"], one["metadata"]["name"]): one for one in read}


def test_the_guides_ray_service_keeps_every_intent(guide) -> None:
    body = guide["RayService", "llm-inference-v1"]
    assert body["apiVersion"] == "ray.io/v1"
    assert body["metadata"]["labels"]["app.kubernetes.io/instance"] == "llm-inference"
    spec = body["spec"]
    assert spec["serviceUnhealthySecondThreshold"] == 300
    assert spec["deploymentUnhealthySecondThreshold"] == 300
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    (deployment,) = application["deployments"]
    assert deployment["num_replicas"] == 2
    assert application["args"]["max_batch_size"] == 4
    (workers,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert workers["replicas"] == 2
    assert container["image"] == "llm-server:latest"
    assert container["resources"]["limits"]["cpu"] == "16"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment == {"MODEL_NAME": "llama2-7b", "BATCH_SIZE": "4"}


def test_the_guides_inference_service_keeps_every_intent(guide) -> None:
    body = guide["InferenceService", "llm-triton-v1"]
    assert body["apiVersion"] == "serving.kserve.io/v1beta1"
    assert body["metadata"]["labels"]["app.kubernetes.io/instance"] == "llm-triton"
    predictor = body["spec"]["predictor"]
    assert predictor["containerConcurrency"] == 4
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert model["storageUri"] == "s3://models/llm"
    assert model["resources"]["limits"] == {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert model["args"] == ["--cache-config=local,size=8000000000"]


def test_the_guides_two_alerts_are_there(guide) -> None:
    (group,) = (
        one
        for one in guide["PrometheusRule", "llm-monitoring"]["spec"]["groups"]
        if one["name"] == "LLMMetrics"
    )
    alerts = {rule["alert"]: rule for rule in group["rules"] if "alert" in rule}
    told = {name: (one["for"], one["labels"]["severity"]) for name, one in alerts.items()}
    assert told["HighLatency"] == ("5m", "warning")
    assert told["HighErrorRate"] == ("5m", "critical")


def test_the_guides_routes_have_the_plain_names(guide) -> None:
    for name in ("llm-inference", "llm-triton"):
        assert guide["HTTPRoute", name]["metadata"]["labels"]["app.kubernetes.io/instance"] == name
