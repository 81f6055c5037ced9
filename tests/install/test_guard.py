"""The guard that is rendered for an endpoint is one that starts, and that is told everything once."""

from typing import Any

import pytest
from typer.testing import CliRunner

from deploy_targets.cli import app
from deploy_targets.guard.settings import GuardSettings
from deploy_targets.guard_policy import GuardPolicy
from deploy_targets.install.guard import (
    GATEWAY_URL,
    REDIS,
    SETTINGS,
    judge_secret,
    render_guard,
    render_guards,
)
from deploy_targets.manifest import MAX_NAME
from deploy_targets.monitoring.manifests import METRICS_PATH
from registry.errors import ManifestInvalid
from tests.builders import a_knative_endpoint, a_ray_endpoint, a_triton_endpoint, an_endpoint
from tests.install.rights import INSTALL

SERVING = {"auth": "api-key", "timeout_s": 90}


def pod(endpoint: Any) -> Any:
    return render_guard(endpoint)[1].body["spec"]["template"]["spec"]


def environment(endpoint: Any) -> dict[str, str]:
    """As the kubelet would set it."""
    found = {}
    for one in pod(endpoint)["containers"][0]["env"]:
        if secret := one.get("valueFrom", {}).get("secretKeyRef"):
            assert secret == {"name": REDIS, "key": "url", "optional": True}
            found[one["name"]] = "redis://redis.shipway:6379/0"
            continue
        source = one.get("valueFrom", {}).get("configMapKeyRef")
        assert source in (None, {"name": SETTINGS, "key": GATEWAY_URL})
        found[one["name"]] = one["value"] if source is None else "http://llm.gateways"
    return found


@pytest.fixture
def settings(monkeypatch):
    def read(endpoint: Any) -> GuardSettings:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        return GuardSettings()

    return read


def test_with_sticky_users_no_guard_starts_without_the_redis_that_tells_who_was_counted() -> None:
    sticky = pod(a_ray_endpoint(guard={"sticky": {"by": "user"}}))
    (optional,) = (
        one["valueFrom"]["secretKeyRef"]["optional"]
        for one in sticky["containers"][0]["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    )
    assert optional is False


@pytest.mark.parametrize(
    ("cache", "memory"),
    [
        (None, "512Mi"),
        ({"max_bytes": 1 << 30}, "1536Mi"),
        ({"max_bytes": 1 << 30, "store": "redis"}, "512Mi"),
    ],
)
def test_a_cache_in_its_memory_has_room_there(cache, memory) -> None:
    (guard,) = pod(a_ray_endpoint(guard={"cache": cache}))["containers"]
    assert guard["resources"]["limits"]["memory"] == memory


def test_its_settings_are_the_endpoints(settings) -> None:
    read = settings(a_ray_endpoint(serving=SERVING))

    assert (read.endpoint, read.model, read.auth) == ("chat", "smollm2", "api-key")
    assert read.upstream_url == "http://llm.gateways"
    assert read.upstream_host == "chat.example.com"
    assert str(read.keys_file) == "/etc/shipway/keys/keys.json"
    assert read.timeout_s > 90  # the Gateway gives up first, and names the version


def test_every_variable_is_one_that_the_guard_knows() -> None:
    known = {f"SHIPWAY_GUARD_{name.upper()}" for name in GuardSettings.model_fields}

    assert environment(a_ray_endpoint()).keys() <= known


def test_it_may_finish_what_it_has_before_it_is_killed(settings) -> None:
    endpoint = a_ray_endpoint(serving=SERVING)

    read = settings(endpoint)

    assert read.drain_s >= read.timeout_s
    assert pod(endpoint)["terminationGracePeriodSeconds"] >= read.drain_s + 5


def test_its_policy_is_the_endpoints_and_another_one_makes_other_pods(settings) -> None:
    def template(**limits: int) -> Any:
        endpoint = a_ray_endpoint(guard={"limits": {"key": limits}})
        config, deployment, *_ = render_guard(endpoint)  # in this order: a pod reads it once
        assert settings(endpoint).policy_file.name in config.body["data"]
        document = config.body["data"][settings(endpoint).policy_file.name]
        assert GuardPolicy.model_validate_json(document) == endpoint.guard
        (volume,) = (one for one in pod(endpoint)["volumes"] if one["name"] == "policy")
        assert volume["configMap"]["name"] == config.body["metadata"]["name"]
        return deployment.body["spec"]["template"]

    assert template(requests_per_minute=5) == template(requests_per_minute=5)
    assert template(requests_per_minute=5) != template(requests_per_minute=6)


def test_without_keys_there_is_no_secret(settings) -> None:
    endpoint = a_ray_endpoint(serving={"auth": "none"})

    assert settings(endpoint).keys_file is None
    assert [one["name"] for one in pod(endpoint)["volumes"]] == ["tmp", "policy"]


def test_a_triton_behind_it_is_spoken_to_as_one(settings) -> None:
    assert settings(a_triton_endpoint()).protocol == "triton"
    assert settings(a_ray_endpoint()).protocol == "openai"


def test_the_proxies_namespace_is_the_gateways_own_or_the_declared_one() -> None:
    def reached(**gateway: str) -> str:
        base = {"name": "llm", "namespace": "gateways", "hostname": "chat.example.com"}
        own = {"namespace": "llm", "image": "engine:1", "gateway": {**base, **gateway}}
        policy = render_guard(a_ray_endpoint(kubernetes=own))[-1].body
        (peer,) = policy["spec"]["egress"][1]["to"]
        return peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]

    assert reached() == "gateways"
    assert reached(proxies_namespace="envoy-system") == "envoy-system"


def test_the_controller_is_told_where_the_counts_are() -> None:
    deployment = (INSTALL / "controller" / "deployment.yaml").read_text()
    service = render_guard(a_ray_endpoint())[3].body

    name = service["metadata"]["name"].replace("chat", "{endpoint}")
    (port,) = service["spec"]["ports"]
    url = f"http://{name}.{service['metadata']['namespace']}:{port['port']}{METRICS_PATH}"
    assert url in deployment
    assert service["spec"]["clusterIP"] == "None"


def test_a_judge_is_reached_and_shown_its_key_only_where_there_is_one(settings) -> None:
    def rendered(**guard: Any) -> tuple[Any, Any]:
        endpoint = a_ray_endpoint(guard=guard)
        names = {one["name"]: one for one in pod(endpoint)["containers"][0]["env"]}
        key = names.get("SHIPWAY_GUARD_JUDGE_KEY")
        return key, render_guard(endpoint)[-1].body["spec"]["egress"][3:]

    judge = {"model": "j", "url": "https://judge.example.com/v1"}
    reference = {"name": judge_secret("chat"), "key": "key", "optional": True}
    assert rendered() == (None, [])
    key, egress = rendered(judge=judge)
    assert key["valueFrom"] == {"secretKeyRef": reference}
    assert egress == [{"ports": [{"protocol": "TCP", "port": 443}]}]
    inside = {**judge, "url": "http://judge.llm:8000/v1"}
    assert rendered(judge=inside)[1] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]


def test_the_longest_name_of_an_endpoint_fits() -> None:
    rendered = render_guard(a_ray_endpoint(name="a" * 40))

    assert max(len(one.body["metadata"]["name"]) for one in rendered) <= MAX_NAME


def test_an_endpoint_on_this_machine_gets_none_and_one_without_a_gateway_is_refused() -> None:
    assert render_guards([an_endpoint()]) == ()
    with pytest.raises(ManifestInvalid, match="has no Gateway that Shipway's route could join"):
        render_guards([an_endpoint(), a_knative_endpoint()])


def test_the_command_prints_them_as_yaml() -> None:
    file = INSTALL / "example" / "endpoints.yaml"

    done = CliRunner().invoke(app, ["endpoints", "guards", "-f", str(file)])

    assert done.exit_code == 0
    assert done.output == (INSTALL / "example" / "guards.yaml").read_text()
