"""What the objects of all targets have in common."""

from typing import Any

import pytest
import yaml

from deploy_targets.manifest import (
    Manifest,
    canonical_yaml,
    check_distinct,
    kubernetes_object,
    limits,
)
from registry.errors import ManifestInvalid


def an_object(kind: str = "RayService", name: str = "chat-v7", namespace: str = "llm") -> Manifest:
    return kubernetes_object(
        "ray.io/v1", kind, metadata={"name": name, "namespace": namespace}, spec={}
    )


@pytest.mark.parametrize(
    ("asked", "spelt"),
    [
        ({"cpus": 8, "memory_gib": 16}, {"cpu": "8", "memory": "16Gi"}),
        ({"cpus": 0.5, "memory_gib": 1.5}, {"cpu": "500m", "memory": "1536Mi"}),
        (
            {"cpus": 1.0, "memory_gib": 2.0, "gpus": 1.0},
            {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "1"},
        ),
    ],
)
def test_amounts_are_spelt_as_kubernetes_does(asked: Any, spelt: dict[str, str]) -> None:
    assert limits(**asked) == spelt


def test_two_objects_that_would_be_one_are_refused() -> None:
    different = (an_object(), an_object(kind="NetworkPolicy"), an_object(namespace="other"))
    check_distinct((*different, Manifest(name="routes", body={}), Manifest(name="routes", body={})))
    with pytest.raises(ManifestInvalid, match="RayService chat-v7 in namespace llm"):
        check_distinct((*different, an_object()))


def test_yaml_says_again_what_is_said_twice_and_keeps_lines_as_lines() -> None:
    shared = {"a": "1"}
    text = canonical_yaml(
        [Manifest(name="x", body={"b": shared, "c": shared, "d": "e: 1\nf: 2\n"})]
    )
    assert text == "---\nb:\n  a: '1'\nc:\n  a: '1'\nd: |\n  e: 1\n  f: 2\n"
    assert yaml.safe_load(text)["d"] == "e: 1\nf: 2\n"
