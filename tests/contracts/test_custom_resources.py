"""What is rendered for a cluster is what the operators' own schemas take, field by field."""

import copy
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client
from kubernetes.client import models

from deploy_targets.control_plane import read_endpoint_file
from deploy_targets.manifest import Manifest, canonical_yaml
from deploy_targets.ray_serve import manifest as ray_service
from deploy_targets.rendering import render_documents
from deploy_targets.routing.http_route import Backend, render_route
from deploy_targets.routing.traffic import Traffic
from deploy_targets.triton import manifest as inference_service
from tests.builders import (
    GATEWAY,
    a_knative_endpoint,
    a_ray_endpoint,
    a_release,
    a_triton_endpoint,
)
from tests.contracts.custom_resources import FILES, faults, object_faults
from tests.repo.reference import ROOT

SCALING = {"min": 1, "max": 4, "target_ongoing_requests": 8}
EVERYTHING = {
    "namespace": "llm",
    "image": "engine:1",
    "env": {"A": "1", "B": "2"},
    "service_account": "engine",
    "gateway": {**GATEWAY, "proxies_namespace": "envoy-gateway-system"},
}
UPGRADE = {
    "rollout": "operator-driven",
    "upgrade": {"gateway_class": "istio"},
    "auth_secret": "token",
}

RAY = {
    "plain": {},
    "everything": {
        "kubernetes": {**EVERYTHING, "storage_secret": "s3"},
        "replicas": SCALING,
        "resources": {"cpus": 0.5, "gpus": 1, "memory_gib": 1.5},
        "ray_serve": {
            "auth_secret": "token",
            "service_unhealthy_s": 300,
            "deployment_unhealthy_s": 300,
        },
    },
    "vllm": {"engine": {"kind": "vllm"}, "resources": {"cpus": 8, "gpus": 2, "memory_gib": 64}},
    "vllm on CPUs": {"engine": {"kind": "vllm"}, "replicas": SCALING},
    "operator-driven": {
        "kubernetes": {"namespace": "llm", "image": "engine:1"},
        "ray_serve": UPGRADE,
    },
}
TRITON = {
    "plain": {},
    "everything": {
        "kubernetes": EVERYTHING,
        "resources": {"cpus": 8, "gpus": 1, "memory_gib": 16},
        "triton": {"container_concurrency": 4, "response_cache_bytes": 8 * 10**9},
    },
    "vllm": {"engine": {"kind": "vllm"}, "resources": {"cpus": 8, "gpus": 2, "memory_gib": 64}},
}


def rendered() -> dict[str, Manifest]:
    """Every kind of object in every way in which it can be declared, by what it is."""
    release = a_release("7")
    ways = {
        f"ray {way}": ray_service.render_all(a_ray_endpoint(**c), release) for way, c in RAY.items()
    }
    for way, changes in TRITON.items():
        endpoint = a_triton_endpoint(**changes)
        ways[f"triton {way}"] = inference_service.render_all(
            endpoint, release, repository="s3://m/7"
        )
    knative = a_knative_endpoint(replicas=SCALING)
    ways["knative"] = tuple(
        inference_service.render_inference_service(
            knative, release, repository="s3://m/7", canary_percent=percent
        )
        for percent in (None, 0, 5, 100)
    )
    backends = {str(version): Backend(service=f"v{version}", port=80) for version in range(1, 15)}
    for percent in (0, 5, 100):
        traffic = Traffic.split("6", "7", percent)
        ways[f"split {percent}"] = (render_route(a_ray_endpoint(), backends, traffic),)
    sticky = a_ray_endpoint(guard={"sticky": {"by": "user"}})
    few = {version: backends[version] for version in ("5", "6", "7", "8")}
    for percent in (1, 5, 50, 99, 100):
        traffic = Traffic.split("6", "7", percent)
        ways[f"sticky {percent}"] = (render_route(sticky, few, traffic),)
    three = Traffic(weights={"6": 34, "7": 33, "8": 33})
    ways["sticky, three"] = (render_route(sticky, few, three),)
    ways["no traffic"] = (render_route(a_ray_endpoint(), {}, Traffic()),)
    return {
        f"{way}: {index} {one.body['kind']}": one
        for way, manifests in ways.items()
        for index, one in enumerate(manifests)
    }


RENDERED = rendered()
CUSTOM = {
    name: one
    for name, one in RENDERED.items()
    if (one.body["apiVersion"], one.body["kind"]) in FILES
}
BUILT_IN = {name: one for name, one in RENDERED.items() if name not in CUSTOM}


@pytest.mark.parametrize("name", CUSTOM)
def test_the_operators_schema_finds_nothing(name: str) -> None:
    assert object_faults(CUSTOM[name].body) == []


@pytest.mark.parametrize("name", BUILT_IN)
def test_kubernetes_own_models_know_every_field(name: str) -> None:
    body = BUILT_IN[name].body
    assert unknown_fields(body, getattr(models, f"V1{body['kind']}")) == []


def unknown_fields(value: Any, model: Any, place: str = "") -> list[str]:
    """The fields of `value` that the Kubernetes client's model does not have, at any depth."""
    known = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    found: list[str] = []
    for key, one in value.items():
        inner = f"{place}.{key}".lstrip(".")
        if key not in known:
            found.append(inner)
            continue
        kind = known[key].removeprefix("List[").removesuffix("]")
        if hasattr(models, kind):
            for item in one if isinstance(one, list) else [one]:
                found += unknown_fields(item, getattr(models, kind), inner)
    return found


AMOUNTS = {
    "resources": st.fixed_dictionaries(
        {
            "cpus": st.floats(0.001, 256),
            "gpus": st.integers(0, 1),
            "memory_gib": st.floats(0.001, 4096),
        }
    ),
    "replicas": st.integers(1, 100)
    | st.builds(
        lambda low, more, target: {
            "min": low,
            "max": low + more,
            "target_ongoing_requests": target,
        },
        st.integers(1, 50),
        st.integers(1, 50),
        st.integers(1, 500),
    ),
    "batching": st.fixed_dictionaries({"max_size": st.integers(1, 1024)}),
    "serving": st.fixed_dictionaries({"timeout_s": st.floats(0.001, 86_400)}),
}
VARIABLES = st.dictionaries(st.from_regex(r"\A[A-Z_][A-Z0-9_]{0,20}\Z"), st.text(max_size=40))


@given(changes=st.fixed_dictionaries(AMOUNTS), env=VARIABLES, version=st.integers(1, 99_999))
def test_whatever_is_declared_renders_to_what_the_schemas_take(
    changes: dict[str, Any], env: dict[str, str], version: int
) -> None:
    release = a_release(str(version))
    ray = a_ray_endpoint(**changes, kubernetes={**EVERYTHING, "env": env})
    knative = a_knative_endpoint(**changes, kubernetes={"namespace": "llm", "env": env})
    objects = (
        *ray_service.render_all(ray, release),
        *inference_service.render_all(knative, release, repository="s3://m/7"),
    )
    found = [
        fault
        for one in objects
        if (one.body["apiVersion"], one.body["kind"]) in FILES
        for fault in object_faults(yaml.safe_load(canonical_yaml([one])))
    ]
    assert found == []


def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    body = copy.deepcopy(next(iter(BUILT_IN.values())).body)
    body["spec"]["ingress"][0]["form"] = []
    assert unknown_fields(body, client.V1NetworkPolicy) == ["spec.ingress.form"]


def test_the_guides_endpoints_render_to_objects_that_the_schemas_take() -> None:
    endpoints = read_endpoint_file(ROOT / "examples" / "guide" / "endpoints.yaml").endpoints
    documents = render_documents(endpoints, version="1", source="s3://models/llm", registry=None)
    read = {
        name: yaml.safe_load(text) for name, text in documents.items() if name.endswith(".yaml")
    }
    checked = {
        name: object_faults(body)
        for name, body in read.items()
        if (body["apiVersion"], body["kind"]) in FILES
    }
    assert set(checked) == {
        "llm-inference-v1.rayservice.yaml",
        "llm-inference.httproute.yaml",
        "llm-triton-v1.inferenceservice.yaml",
        "llm-triton.httproute.yaml",
        "llm-monitoring.prometheusrule.yaml",
        "llm-monitoring.podmonitor.yaml",
    }
    assert not any(checked.values()), checked


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("spec.rayClusterConfig.headGroupSpec.tempalte", {}, "is unknown"),
        ("spec.rayClusterConfig.authOptions.mode", "tokne", "Unsupported value"),
        ("spec.serviceUnhealthySecondThreshold", "300", "must be of type integer"),
        ("spec.excludeHeadPodFromServeSvc", 1, "must be of type boolean"),
        ("spec.rayClusterConfig.workerGroupSpecs[0].minReplicas", None, "is null"),
        ("spec.upgradeStrategy.clusterUpgradeOptions", {}, "gatewayClassName: Required"),
        ("spec.rayClusterDeletionDelaySeconds", -1, "greater than or equal to 0"),
        ("metadata.labels.when", "a b", "no label's value"),
    ],
)
def test_each_kind_of_fault_is_found_with_its_place(path: str, value: Any, fault: str) -> None:
    body: Any = copy.deepcopy(dict(RENDERED["ray plain: 0 RayService"].body))
    *way, last = re.split(r"[.\[\]]+", path)
    part = body
    for step in way:
        part = part[int(step) if step.isdecimal() else step]
    part[last] = value
    found = object_faults(body)
    assert len(found) == (3 if "Required" in fault else 1)
    assert path in found[0]
    assert fault in found[0]


def test_a_null_in_a_list_or_in_what_is_not_declared_is_found() -> None:
    structure = {
        "type": "object",
        "properties": {
            "names": {"type": "array", "items": {"type": "string"}},
            "maybe": {"type": "string", "nullable": True},
            "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    value = {"names": ["a", None], "maybe": None, "anything": {"a": None}}

    found = [fault for fault in faults(value, structure) if fault.endswith("is null")]

    assert found == ["names[1] is null", "anything.a is null"]
