"""What an endpoint says about its cluster: what would not act or could not work is refused, with the way out."""

from typing import Any

import jsonschema
import pytest
import yaml

from deploy_targets.declared import AS_DUMPED
from deploy_targets.endpoint import Endpoint, endpoint_schema, parse_endpoints
from registry.errors import EndpointFileInvalid
from tests.builders import GATEWAY
from tests.repo.reference import ROOT

RAY = {"target": "ray-serve", "kubernetes": {"image": "engine:1", "gateway": GATEWAY}}
TRITON = {"target": "triton", "kubernetes": {"gateway": GATEWAY}}
KNATIVE = {"target": "triton", "kubernetes": {}, "triton": {"mode": "Knative"}}
UPGRADE = {"gateway_class": "istio"}
OPERATOR = {"rollout": "operator-driven", "upgrade": UPGRADE}
SCALING = {"max": 4, "target_ongoing_requests": 8}


def parse(*endpoints: dict[str, Any]) -> tuple[Endpoint, ...]:
    document = {
        "apiVersion": "shipway/v1",
        "endpoints": [
            {"name": f"e{i}", "model": f"m{i}", **one} for i, one in enumerate(endpoints)
        ],
    }
    return parse_endpoints(yaml.safe_dump(document), origin="endpoints.yaml").endpoints


@pytest.mark.parametrize(
    "accepted",
    [
        RAY,
        TRITON,
        KNATIVE,
        {**RAY, "engine": {"kind": "vllm"}, "resources": {"gpus": 2}},
        {**RAY, "replicas": SCALING},
        {**KNATIVE, "replicas": SCALING},
        {**TRITON, "engine": {"kind": "vllm"}, "resources": {"gpus": 1}},
        {"target": "ray-serve", "kubernetes": {"image": "engine:1"}, "ray_serve": OPERATOR},
        {"replicas": SCALING},
        {"resources": {"gpus": 0.5}},
        {"target": "local-triton"},
        {"target": "local-triton", "triton": {"response_cache_bytes": 1 << 24}},
    ],
)
def test_what_fits_its_target_is_accepted(accepted: dict[str, Any]) -> None:
    (endpoint,) = parse(accepted)
    assert endpoint.name == "e0"
    # In records and saved states it stands with all its defaults.
    assert Endpoint.model_validate_json(endpoint.model_dump_json(), context=AS_DUMPED) == endpoint


@pytest.mark.parametrize(
    ("refused", "way_out"),
    [
        ({"target": "ray-serve"}, "needs the part kubernetes"),
        ({"rollout": {"steps": [{"weight": 0}, {"weight": 5}]}}, "give guard.shadow"),
        ({"rollout": {"steps": [{"weight": 0}]}}, "add one with a weight above 0"),
        ({**RAY, "guard": {"record": {}}}, "leave it out, or record on a local target"),
        ({"target": "triton"}, "needs the part kubernetes"),
        ({"kubernetes": {}}, "leave it out or change the target"),
        ({"engine": {"kind": "vllm"}}, "target local has no vLLM"),
        ({**RAY, "triton": {}}, "triton is for target triton or local-triton"),
        ({"triton": {}}, "triton is for target triton or local-triton"),
        ({"target": "local-triton", "engine": {"kind": "vllm"}}, "local-triton has no vLLM"),
        ({"target": "local-triton", "kubernetes": {}}, "leave it out or change the target"),
        ({"target": "local-triton", "replicas": 2}, "one Triton for each revision"),
        ({"target": "local-triton", "replicas": SCALING}, "one Triton for each revision"),
        ({"target": "local-triton", "triton": {"mode": "Standard"}}, "does not run here"),
        (
            {"target": "local-triton", "triton": {"response_cache_bytes": 2 << 30}},
            "raise resources.memory_gib",
        ),
        ({**TRITON, "ray_serve": {}}, "ray_serve is for target ray-serve"),
        ({**RAY, "kubernetes": {"gateway": GATEWAY}}, "image is missing"),
        ({**RAY, "kubernetes": {"image": "e"}}, "gateway is missing"),
        ({**TRITON, "kubernetes": {}}, "gateway is missing"),
        ({**KNATIVE, "kubernetes": {"gateway": GATEWAY}}, "in Knative mode KServe splits"),
        ({**KNATIVE, "guard": {"sticky": {}}}, "run KServe in Standard mode"),
        ({**KNATIVE, "guard": {"shadow": {}}}, "no version can be pinned"),
        (
            {
                "target": "ray-serve",
                "kubernetes": {"image": "e"},
                "ray_serve": OPERATOR,
                "guard": {"sticky": {}},
            },
            "KubeRay shares requests out by chance",
        ),
        (
            {
                "target": "ray-serve",
                "kubernetes": {"image": "e"},
                "ray_serve": OPERATOR,
                "guard": {"shadow": {}},
            },
            "nothing is judged in an operator-driven rollout",
        ),
        (
            {"serving": {"auth": "none"}, "guard": {"sticky": {"by": "key"}}},
            "everybody is the same one",
        ),
        ({**TRITON, "replicas": SCALING}, "run KServe in Knative mode"),
        ({**RAY, "resources": {"gpus": 0.5}}, "give a whole number"),
        ({**RAY, "resources": {"gpus": 2}}, "use vllm, which shares a model out"),
        ({**RAY, "ray_serve": OPERATOR}, "gateway would not be used"),
        (
            {
                "target": "ray-serve",
                "kubernetes": {"image": "e"},
                "ray_serve": OPERATOR,
                "rollout": {},
            },
            "rollout would not be used",
        ),
        ({**RAY, "ray_serve": {"rollout": "operator-driven"}}, "needs `upgrade`"),
        ({**RAY, "ray_serve": {"upgrade": UPGRADE}}, "rollout: operator-driven"),
        (
            {**RAY, "engine": {"kind": "vllm"}, "batching": {"max_delay_ms": 5}},
            "waits for none; leave it out",
        ),
        ({**TRITON, "engine": {"kind": "vllm"}}, "needs a GPU"),
        (
            {
                **TRITON,
                "engine": {"kind": "vllm"},
                "resources": {"gpus": 1},
                "triton": {"response_cache_bytes": 1 << 30},
            },
            "caches no streamed answers",
        ),
        ({**TRITON, "triton": {"response_cache_bytes": 2 << 30}}, "raise resources.memory_gib"),
        ({**TRITON, "engine": {"threads": 2}}, "slower than one"),
        ({**TRITON, "engine": {"threads": 3}, "resources": {"cpus": 1.5}}, "raise the other"),
        (
            {**TRITON, "batching": {"max_size": 8}, "triton": {"container_concurrency": 4}},
            "a batch could never fill",
        ),
        (
            {**TRITON, "kubernetes": {"gateway": GATEWAY, "storage_secret": "s3"}},
            "name it in kubernetes.service_account",
        ),
        (
            {**RAY, "kubernetes": {**RAY["kubernetes"], "env": {"RAY_AUTH_MODE": "disabled"}}},
            "undo the authentication",
        ),
        *(
            (
                {**RAY, "kubernetes": {**RAY["kubernetes"], "env": {name: "1"}}},
                f"{name}, with which KubeRay would never begin",
            )
            for name in ("RAY_REDIS_ADDRESS", "REDIS_USERNAME", "RAY_enable_autoscaler_v2")
        ),
        ({"replicas": {"min": 4, **SCALING}}, "replicas: 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(
    refused: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(EndpointFileInvalid, match=way_out):
        parse(refused)


@pytest.mark.parametrize(
    ("refused", "place"),
    [
        ({**RAY, "kubernetes": {"image": ""}}, "kubernetes.image"),
        ({**RAY, "kubernetes": {"namespace": "Default"}}, "kubernetes.namespace"),
        ({**RAY, "kubernetes": {"env": {"A-B": "1"}}}, "kubernetes.env"),
        ({**RAY, "kubernetes": {"env": {"A": 1}}}, "kubernetes.env.A"),
        ({**RAY, "kubernetes": {"gateway": {"name": "a"}}}, "kubernetes.gateway.namespace"),
        ({**RAY, "kubernetes": {"gatway": GATEWAY}}, "kubernetes.gatway"),
        ({**TRITON, "triton": {"mode": "Serverless"}}, "triton.mode"),
        ({**TRITON, "triton": {"container_concurrency": 0}}, "triton.container_concurrency"),
        ({**RAY, "engine": {"kind": "vlm"}}, "engine.kind"),
        ({**RAY, "ray_serve": {"rollout": "kuberay"}}, "ray_serve.rollout"),
        ({"replicas": {"max": 4}}, "replicas.scaling.target_ongoing_requests: Field required"),
        ({"replicas": 0}, "replicas.number: Input should be greater"),
    ],
)
def test_a_value_that_no_cluster_takes_is_refused_with_its_place(
    refused: dict[str, Any], place: str
) -> None:
    with pytest.raises(EndpointFileInvalid, match=rf"endpoints\.0\.{place}"):
        parse(refused)


def test_two_endpoints_may_share_a_gateway_but_no_hostname_on_it() -> None:
    other = {**GATEWAY, "hostname": "other.example.com"}
    assert len(parse(RAY, {**TRITON, "kubernetes": {"gateway": other}})) == 2
    elsewhere = {**GATEWAY, "namespace": "elsewhere"}
    assert len(parse(RAY, {**TRITON, "kubernetes": {"gateway": elsewhere}})) == 2
    with pytest.raises(EndpointFileInvalid, match=r"used twice: chat\.example\.com"):
        parse(RAY, TRITON)


def test_several_faults_are_named_together() -> None:
    with pytest.raises(EndpointFileInvalid, match="image is missing") as refused:
        parse({"target": "ray-serve", "kubernetes": {}})
    assert "gateway is missing" in str(refused.value)


def test_the_schema_for_editors_takes_the_guides_file_and_refuses_a_typo_in_it() -> None:
    document = yaml.safe_load((ROOT / "examples" / "guide" / "endpoints.yaml").read_text())
    document["endpoints"][1]["replicas"] = {"min": 1, **SCALING}
    jsonschema.validate(document, endpoint_schema())
    document["endpoints"][1]["triton"]["mood"] = "Standard"
    with pytest.raises(jsonschema.ValidationError, match="mood"):
        jsonschema.validate(document, endpoint_schema())
