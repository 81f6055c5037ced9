"""Which adapter an endpoint gets, and what has to be set for it."""

from typing import Any

import httpx2
import pytest

from deploy_targets.gateway_split import GatewayTarget
from deploy_targets.kubernetes_targets import (
    ClusterSettings,
    check_triton,
    cluster_counters,
    cluster_smoke,
    cluster_target,
    every_address,
    trusted,
)
from deploy_targets.triton.knative import KnativeTarget
from registry.errors import BadInput
from tests.builders import NOON, a_knative_endpoint, a_ray_endpoint, a_triton_endpoint, an_endpoint

NOBODY: Any = None
TRUST = trusted()
UPGRADE = {"rollout": "operator-driven", "upgrade": {"gateway_class": "istio"}}


def target(endpoint: Any) -> Any:
    return cluster_target(endpoint, NOBODY, repository=lambda release: release.source)


def test_the_target_and_the_mode_choose_the_adapter() -> None:
    chosen = [
        type(target(endpoint))
        for endpoint in (a_ray_endpoint(), a_triton_endpoint(), a_knative_endpoint())
    ]

    assert chosen == [GatewayTarget, GatewayTarget, KnativeTarget]


def test_what_is_not_rolled_out_on_a_cluster_by_us_is_refused() -> None:
    theirs = a_ray_endpoint(kubernetes={"namespace": "llm", "image": "engine:1"}, ray_serve=UPGRADE)

    with pytest.raises(BadInput, match="operator-driven: KubeRay moves its requests"):
        target(theirs)
    with pytest.raises(BadInput, match="nothing of it is in a cluster"):
        target(an_endpoint())


def test_a_controller_outside_the_cluster_is_told_which_addresses_it_lacks() -> None:
    with pytest.raises(BadInput, match="SHIPWAY_GUARD_METRICS_URL"):
        cluster_counters(a_ray_endpoint(), ClusterSettings(), clock=lambda: NOON, trust=TRUST)
    with pytest.raises(BadInput, match="SHIPWAY_GATEWAY_URL"):
        cluster_smoke(a_ray_endpoint(), ClusterSettings(), trust=TRUST)


def test_the_gateway_is_asked_under_the_endpoints_own_hostname() -> None:
    settings = ClusterSettings(
        gateway_url="http://127.0.0.1:1/", guard_metrics_url="http://127.0.0.1:1/{endpoint}"
    )

    smoke = cluster_smoke(a_ray_endpoint(), settings, trust=TRUST)
    counters = cluster_counters(a_ray_endpoint(), settings, clock=lambda: NOON, trust=TRUST)

    assert smoke._client.headers["host"] == "chat.example.com"
    assert smoke._url == "http://127.0.0.1:1/v1/chat/completions"
    assert counters._url == "http://127.0.0.1:1/chat"


def test_a_guards_page_is_read_at_every_address_of_its_name() -> None:
    at = every_address(httpx2.URL("http://localhost:9090/metrics"))

    assert at
    assert {str(one) for one in at} <= {
        "http://127.0.0.1:9090/metrics",
        "http://[::1]:9090/metrics",
    }


def test_with_https_the_name_stays() -> None:
    url = httpx2.URL("https://guards.example.com/chat/metrics")

    assert every_address(url) == (url,)


def test_triton_is_rolled_out_where_its_versions_can_be_asked_and_judged_and_refused_elsewhere() -> (
    None
):
    check_triton(a_triton_endpoint())
    vllm = {"engine": {"kind": "vllm"}, "resources": {"cpus": 8, "gpus": 1, "memory_gib": 64}}
    with pytest.raises(BadInput, match="takes a prompt and not a chat"):
        check_triton(a_triton_endpoint(**vllm))
    with pytest.raises(BadInput, match="neither be smoke-tested nor judged"):
        check_triton(a_knative_endpoint())


def test_triton_is_smoke_tested_through_the_gateway_in_its_own_protocol() -> None:
    settings = ClusterSettings(gateway_url="http://127.0.0.1:1/")

    smoke = cluster_smoke(a_triton_endpoint(), settings, trust=TRUST)

    assert smoke._url == "http://127.0.0.1:1/v2/models/chat/generate_stream"
