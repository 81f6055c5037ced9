"""What the Prometheus Operator gets: valid to the letter, and only where there is a Kubernetes to apply it to."""

import copy
from typing import Any

import pytest
import yaml

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import Manifest, canonical_yaml
from deploy_targets.monitoring.manifests import (
    controller_pod_monitor,
    monitoring_manifests,
    pod_monitor,
    prometheus_rule,
)
from tests.builders import a_ray_endpoint, a_triton_endpoint, an_endpoint
from tests.contracts.custom_resources import object_faults

OBJECTS = {"prometheusrules": prometheus_rule(), "podmonitors": pod_monitor()}
EACH = pytest.mark.parametrize(("plural", "manifest"), OBJECTS.items(), ids=list(OBJECTS))
ALL = [*OBJECTS.values(), controller_pod_monitor()]


@pytest.mark.parametrize("manifest", ALL, ids=lambda manifest: manifest.name)
def test_it_is_valid_against_the_operators_schema(manifest: Manifest) -> None:
    assert object_faults(yaml.safe_load(canonical_yaml([manifest]))) == []


@pytest.mark.parametrize(
    ("plural", "path", "value"),
    [
        ("podmonitors", ("podMetricsEndpoints", 0, "honorLabel"), True),
        ("podmonitors", ("podMetricsEndpoints", 0, "relabelings", 0, "target"), "endpoint"),
        ("prometheusrules", ("groups", 0, "rules", -1, "for"), "five"),
        ("prometheusrules", ("groups", 0, "rules", -1, "severity"), "critical"),
    ],
)
def test_a_slip_in_it_would_be_seen(plural: str, path: tuple[Any, ...], value: object) -> None:
    body = copy.deepcopy(dict(OBJECTS[plural].body))
    place = body["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (fault,) = object_faults(body)
    assert str(path[-1]) in fault


@EACH
def test_it_has_the_guides_name(plural: str, manifest: Manifest) -> None:
    assert manifest.body["metadata"]["name"] == "llm-monitoring"


def test_endpoints_on_kubernetes_share_one_of_each() -> None:
    endpoints = [a_ray_endpoint(name="a"), a_triton_endpoint(name="b")]
    kinds = [one.body["kind"] for one in monitoring_manifests(endpoints)]
    assert kinds == ["PrometheusRule", "PodMonitor"]


def test_a_file_with_one_endpoint_on_kubernetes_gets_them() -> None:
    endpoints = [an_endpoint(), a_triton_endpoint(name="b")]
    assert len(monitoring_manifests(endpoints)) == 2


def test_without_kubernetes_there_is_nothing_to_apply() -> None:
    triton = {"name": "b", "model": "b", "target": "local-triton"}
    local = [an_endpoint(), Endpoint.model_validate(triton)]
    assert monitoring_manifests(local) == ()
