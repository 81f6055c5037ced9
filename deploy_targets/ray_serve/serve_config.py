"""One version of an endpoint as a Ray Serve application, and a whole Serve config around it. Pure.

The same rendering runs on a local Ray and in a RayService, so there is one truth; only the route prefix differs, for a
RayService has its Ray to itself. Ray ignores keys that it does not know, so `check_serve_config` refuses them, and
`app.EngineArgs` and `vllm_app.VllmArgs` refuse unknown arguments. Next: `manifest`, which wraps the config in a RayService.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import revision_name
from deploy_targets.placement import Autoscaling
from registry.errors import ManifestInvalid
from registry.release import Release

IMPORT_PATH = "deploy_targets.ray_serve.app:build"
DEPLOYMENT = "llm"
VLLM_IMPORT_PATH = "deploy_targets.ray_serve.vllm_app:build"
"""Ray's own builder around vLLM, with our artifact. vLLM finds out by itself that a checkpoint is quantized by GPTQ."""

_QUEUED_BATCHES = 8
"""Batches that may wait at a replica before it answers 503: an honest refusal beats a time-out. Ray counts them at each of
its proxies, so where there are several nodes, more may wait in all."""
_RETRY_AFTER_S = 1
"""What a 503 tells the client: about a batch of short answers."""
_INGRESS_SHARE = 0.1
"""Of a pod's cores, for the ingress in front of vLLM: it passes text on. A guess that leaves the engine nearly all."""
_KEEP_ALIVE_S = 3900
"""Envoy, which most Gateways are, gives an idle connection up after an hour: Ray must not do so first."""

_RAYS_SCHEMA = {
    "config": "applications controller_options grpc_options http_options logging_config proxy_location "
    "target_capacity tracing_config",
    "http_options": "host keep_alive_timeout_s port request_timeout_s root_path ssl_ca_certs ssl_certfile ssl_keyfile "
    "ssl_keyfile_password",
    "application": "args autoscaling_policy deployments external_scaler_enabled host import_path logging_config name "
    "port route_prefix runtime_env",
    "deployment": "autoscaling_config backpressure_config deployment_actors gang_scheduling_config "
    "graceful_shutdown_timeout_s graceful_shutdown_wait_loop_s health_check_period_s health_check_timeout_s "
    "logging_config max_ongoing_requests max_queued_requests max_replicas_per_node max_surge_percent name num_replicas "
    "placement_group_bundle_label_selector placement_group_bundles placement_group_strategy ray_actor_options "
    "request_router_config rolling_update_percentage user_config",
    "ray_actor_options": "accelerator_type fallback_strategy label_selector memory num_cpus num_gpus resources "
    "runtime_env",
}
KNOWN_KEYS: Mapping[str, frozenset[str]] = {
    place: frozenset(keys.split()) for place, keys in _RAYS_SCHEMA.items()
}
"""What Ray 2.60 reads, by place; a test compares it with Ray's own schema."""


def render_serve_config(endpoint: Endpoint, release: Release) -> dict[str, Any]:
    """The Serve config of a Ray that serves `release` alone, at its root: what `serveConfigV2` holds.

    Raises:
        ManifestInvalid: it has a key that Ray would ignore.
    """
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"keep_alive_timeout_s": _KEEP_ALIVE_S},
        "applications": [render_application(endpoint, release, route_prefix="/")],
    }
    check_serve_config(config)
    return config


def render_application(
    endpoint: Endpoint, release: Release, *, route_prefix: str | None = None
) -> dict[str, Any]:
    """The application that serves `release` under `route_prefix`, by default `/<endpoint>-v<version>`."""
    name = revision_name(endpoint.name, release.version)
    is_vllm = endpoint.engine.kind == "vllm"
    engine = _vllm(endpoint, release) if is_vllm else _transformers(endpoint, release)
    return {"name": name, "route_prefix": route_prefix or f"/{name}", **engine}


def _transformers(endpoint: Endpoint, release: Release) -> dict[str, Any]:
    batch, resources = endpoint.batching, endpoint.resources
    return {
        "import_path": IMPORT_PATH,
        "args": {
            "model_name": endpoint.name,
            "version": release.version,
            "source": release.source,
            "digest": release.digest,
            "max_context_tokens": endpoint.engine.max_context_tokens,
            "threads": endpoint.engine.threads,
            "max_batch_size": batch.max_size,
            "batch_wait_s": batch.max_delay_ms / 1000,
        },
        "deployments": [
            {
                "name": DEPLOYMENT,
                **_scale(endpoint),
                "graceful_shutdown_timeout_s": endpoint.serving.timeout_s,
                "ray_actor_options": {
                    "num_cpus": resources.cpus,
                    "num_gpus": resources.gpus,
                    "memory": int(resources.memory_gib * 2**30),
                },
            }
        ],
    }


def _vllm(endpoint: Endpoint, release: Release) -> dict[str, Any]:
    """The engine's workers ask for the devices, one each, and for the cores that the ingress leaves.

    The ingress asks for cores, too: what asks for nothing may be put on the head.
    """
    engine, resources = endpoint.engine, endpoint.resources
    gpus = int(resources.gpus)
    workers = max(gpus, 1)
    ingress_cpus = _milli(resources.cpus * _INGRESS_SHARE)
    worker_cpus = _milli((resources.cpus - ingress_cpus) / workers)
    worker = {"CPU": worker_cpus, **({"GPU": 1} if gpus else {})}
    scale = _scale(endpoint)
    model = {
        "model_loading_config": {"model_id": endpoint.name},
        "engine_kwargs": {
            "max_model_len": engine.max_context_tokens,
            "max_num_seqs": endpoint.batching.max_size,
            "tensor_parallel_size": workers,
            # Without a GPU compiling takes longer than all the rest of a start, and a C++ compiler in the image.
            "enforce_eager": not gpus,
        },
        "placement_group_config": {"bundle_per_worker": worker},
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(engine.threads)}},
        "deployment_config": {
            **scale,
            "graceful_shutdown_timeout_s": endpoint.serving.timeout_s,
            "ray_actor_options": {"num_cpus": 0},  # it sits with its first worker
        },
    }
    ingress = {**scale, "ray_actor_options": {"num_cpus": ingress_cpus}}
    return {
        "import_path": VLLM_IMPORT_PATH,
        "args": {
            "source": release.source,
            "digest": release.digest,
            "llm_config": model,
            "ingress_deployment_config": ingress,
        },
    }


def _milli(cores: float) -> float:
    """Rounded down to what Ray and Kubernetes can both count, so that the parts never exceed the pod."""
    return math.floor(cores * 1000) / 1000


def _scale(endpoint: Endpoint) -> dict[str, Any]:
    """How many replicas there are, and how many requests each takes and lets wait."""
    replicas, batch = endpoint.replicas, endpoint.batching
    number: dict[str, Any] = {"num_replicas": replicas}
    if isinstance(replicas, Autoscaling):
        number = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": replicas.target_ongoing_requests,
            }
        }
    return {
        **number,
        "max_ongoing_requests": 2 * batch.max_size,
        "max_queued_requests": _QUEUED_BATCHES * batch.max_size * endpoint.max_replicas,
        "backpressure_config": {"status_code": 503, "retry_after_s": _RETRY_AFTER_S},
    }


def check_serve_config(config: Mapping[str, Any]) -> None:
    """Refuses what Ray would silently ignore.

    Raises:
        ManifestInvalid: a key that Ray does not know; every one is named with its place.
    """
    if unknown := tuple(_unknown_keys(config)):
        message = (
            f"The Serve config says {', '.join(unknown)}, which Ray does not know and would ignore. "
            "Correct the spelling, or leave it out."
        )
        raise ManifestInvalid(message)


def _unknown_keys(config: Mapping[str, Any]) -> Iterator[str]:
    for place, kind, part in _parts(config):
        yield from (f"{place}{key}" for key in part if key not in KNOWN_KEYS[kind])


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every object of the config whose keys are Ray's: its place, its kind, itself."""
    yield "", "config", config
    yield "http_options.", "http_options", config.get("http_options", {})
    for i, application in enumerate(config.get("applications", ())):
        place, arguments = f"applications.{i}.", application.get("args", {})
        yield place, "application", application
        deployments = {
            f"{place}deployments.{j}.": one
            for j, one in enumerate(application.get("deployments", ()))
        }
        if application.get("import_path") == VLLM_IMPORT_PATH:
            ingress, engine = "ingress_deployment_config", arguments.get("llm_config", {})
            deployments[f"{place}args.{ingress}."] = arguments.get(ingress, {})
            deployments[f"{place}args.llm_config.deployment_config."] = engine.get(
                "deployment_config", {}
            )
        for name, one in deployments.items():
            yield name, "deployment", one
            options = one.get("ray_actor_options", {})
            yield f"{name}ray_actor_options.", "ray_actor_options", options
