"""What is sent to Ray Serve is what Ray Serve reads."""

import pytest
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deploy_targets.batching import BatchPolicy
from deploy_targets.endpoint import Endpoint, Engine, Resources
from deploy_targets.ray_serve.app import EngineArgs
from deploy_targets.ray_serve.serve_config import render_application
from tests.builders import a_digest, a_release, an_endpoint


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
    assert deployment["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.5, "memory": 2**30}
