"""What is sent to Ray Serve is what Ray Serve reads."""

import importlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.serve import schema
from ray.serve.schema import ServeDeploySchema

from deploy_targets.batching import BatchPolicy
from deploy_targets.endpoint import Endpoint, Engine, Resources
from deploy_targets.ray_serve.app import EngineArgs
from deploy_targets.ray_serve.serve_config import (
    KNOWN_KEYS,
    check_serve_config,
    render_application,
    render_serve_config,
)
from deploy_targets.ray_serve.vllm_app import VllmArgs, verified
from registry.errors import ManifestInvalid
from tests.builders import a_digest, a_ray_endpoint, a_release, an_endpoint


def test_rays_own_schema_takes_the_rendering_and_drops_nothing_of_it() -> None:
    application = render_application(an_endpoint(), a_release("7"))
    parsed = ServeDeploySchema.model_validate({"applications": [application]})
    kept = parsed.applications[0].model_dump(exclude_unset=True)
    assert kept["name"] == "chat-v7"
    assert kept["args"] == application["args"]
    sent, read = application["deployments"][0], kept["deployments"][0]
    assert set(sent) == set(read)
    assert set(sent["ray_actor_options"]) == set(read["ray_actor_options"])


def test_the_engine_takes_every_argument_that_is_rendered_and_refuses_others() -> None:
    arguments = render_application(an_endpoint(), a_release("7"))["args"]
    assert EngineArgs.model_validate(arguments).version == "7"
    with pytest.raises(ValidationError, match="dygest"):
        EngineArgs.model_validate({**arguments, "dygest": ""})


def test_the_endpoints_wishes_arrive() -> None:
    endpoint = Endpoint(
        name="chat",
        model="smollm2",
        replicas=3,
        engine=Engine(max_context_tokens=512, threads=2),
        resources=Resources(cpus=2, gpus=0.5, memory_gib=1),
        batching=BatchPolicy(max_size=4, max_delay_ms=50),
    )
    application = render_application(endpoint, a_release("7"))
    assert application["args"] == {
        "model_name": "chat",
        "version": "7",
        "source": "s3://shipway/models/7",
        "digest": a_digest("7"),
        "max_context_tokens": 512,
        "threads": 2,
        "max_batch_size": 4,
        "batch_wait_s": 0.05,
    }
    deployment = application["deployments"][0]
    assert deployment["num_replicas"] == 3
    assert (
        deployment["max_ongoing_requests"] == 8
    )  # one batch at work, and one that is ready when it ends
    assert deployment["max_queued_requests"] == 8 * 4 * 3
    assert deployment["backpressure_config"] == {"status_code": 503, "retry_after_s": 1}
    assert deployment["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.5, "memory": 2**30}


CONFIG_MODELS = {
    "config": schema.ServeDeploySchema,
    "http_options": schema.HTTPOptionsSchema,
    "application": schema.ServeApplicationSchema,
    "deployment": schema.DeploymentSchema,
    "ray_actor_options": schema.RayActorOptionsSchema,
}
SCALING = {"min": 1, "max": 4, "target_ongoing_requests": 8}


def test_the_known_keys_are_those_of_rays_own_schema() -> None:
    for place, model in CONFIG_MODELS.items():
        assert set(model.model_fields) == KNOWN_KEYS[place]


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
@pytest.mark.parametrize("replicas", [2, SCALING])
def test_ray_takes_the_whole_config_of_a_cluster(kind: str, replicas: Any) -> None:
    endpoint = a_ray_endpoint(engine={"kind": kind}, replicas=replicas)
    config = render_serve_config(endpoint, a_release("7"))
    parsed = ServeDeploySchema.model_validate(config)
    (application,) = parsed.applications
    assert application.route_prefix == "/"
    assert application.args == config["applications"][0]["args"]


def test_replicas_that_follow_the_load_name_no_fixed_number() -> None:
    application = render_application(a_ray_endpoint(replicas=SCALING), a_release("7"))
    (deployment,) = application["deployments"]
    assert "num_replicas" not in deployment
    assert deployment["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 8,
    }


@pytest.mark.parametrize(
    ("gpus", "workers", "worker", "hardware"),
    [
        (0, 1, {"CPU": 7.2}, "cpu"),
        (1, 1, {"CPU": 7.2, "GPU": 1}, "gpu"),
        (4, 4, {"CPU": 1.8, "GPU": 1}, "gpu"),
    ],
)
def test_rays_own_vllm_config_takes_the_rendering(
    gpus: int, workers: int, worker: dict[str, float], hardware: str
) -> None:
    endpoint = a_ray_endpoint(
        engine={"kind": "vllm", "max_context_tokens": 1024, "threads": 3},
        resources={"cpus": 8, "gpus": gpus, "memory_gib": 32},
        batching={"max_size": 16},
    )
    application = render_application(endpoint, a_release("7"))
    rendered = application["args"]["llm_config"]
    # Its schema is in every Ray; building the application wants vLLM as well.
    config = importlib.import_module("ray.llm._internal.serve.core.configs.llm_config")
    parsed = config.LLMConfig.model_validate(verified(VllmArgs(**application["args"])))
    assert parsed.model_id == "chat"
    assert parsed.engine_kwargs == {
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "tensor_parallel_size": workers,
        "enforce_eager": hardware == "cpu",
    }
    assert parsed.placement_group_config == {"bundle_per_worker": worker}
    assert parsed.accelerator_config.kind == hardware
    assert parsed.runtime_env == {"env_vars": {"OMP_NUM_THREADS": "3"}}
    with pytest.raises(ValidationError, match="engine_args"):
        config.LLMConfig.model_validate({**rendered, "engine_args": {}})


@pytest.mark.parametrize(
    ("place", "key", "kind"),
    [
        ((), "aplications", "transformers"),
        (("http_options",), "keep_alive", "transformers"),
        (("applications", 0), "route_prefx", "transformers"),
        (("applications", 0, "deployments", 0), "num_replica", "transformers"),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_gpu", "transformers"),
        (("applications", 0, "args", "ingress_deployment_config"), "num_replica", "vllm"),
        (("applications", 0, "args", "llm_config", "deployment_config"), "num_replica", "vllm"),
    ],
)
def test_a_key_that_ray_would_ignore_is_refused_with_its_place(
    place: tuple[Any, ...], key: str, kind: str
) -> None:
    config = render_serve_config(a_ray_endpoint(engine={"kind": kind}), a_release("7"))
    part: Any = config
    for step in place:
        part = part[step]
    part[key] = 1
    with pytest.raises(ManifestInvalid, match=re.escape(".".join(map(str, (*place, key))))):
        check_serve_config(config)


@given(cpus=st.floats(0.1, 256), gpus=st.integers(0, 16))
def test_vllms_workers_and_their_ingress_fit_into_the_pod(cpus: float, gpus: int) -> None:
    resources = {"cpus": cpus, "gpus": gpus, "memory_gib": 8}
    endpoint = a_ray_endpoint(engine={"kind": "vllm"}, resources=resources)
    arguments = render_application(endpoint, a_release("7"))["args"]
    model = arguments["llm_config"]
    bundle = model["placement_group_config"]["bundle_per_worker"]
    ingress = arguments["ingress_deployment_config"]["ray_actor_options"]["num_cpus"]
    workers = model["engine_kwargs"]["tensor_parallel_size"]
    assert workers * bundle.get("GPU", 0) == gpus
    assert 0 < ingress + workers * bundle["CPU"] <= cpus + 1e-9
    assert ingress > 0


def test_our_own_rendering_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KNOWN_KEYS["deployment"] - {"max_queued_requests"}
    monkeypatch.setitem(KNOWN_KEYS, "deployment", known)
    with pytest.raises(ManifestInvalid, match="max_queued_requests"):
        render_serve_config(a_ray_endpoint(), a_release("7"))
