"""One version of an endpoint as a Ray Serve application: the element of `serveConfigV2`'s `applications`. Pure.

The same rendering runs on a local Ray and in a RayService, so there is one truth. Ray ignores keys that it does not
know: the tests read each rendering back through Ray's own schema, and `app.EngineArgs` refuses unknown arguments.
"""

from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import revision_name
from registry.release import Release

IMPORT_PATH = "deploy_targets.ray_serve.app:build"
DEPLOYMENT = "llm"

_QUEUED_BATCHES = 8
"""Batches that may wait at a replica before it answers 503: an honest refusal beats a time-out."""


def render_application(endpoint: Endpoint, release: Release) -> dict[str, Any]:
    """The application that serves `release` under `/<endpoint>-v<version>`."""
    name = revision_name(endpoint.name, release.version)
    batch, resources = endpoint.batching, endpoint.resources
    return {
        "name": name,
        "route_prefix": f"/{name}",
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
                "num_replicas": endpoint.replicas,
                "max_ongoing_requests": 2 * batch.max_size,
                "max_queued_requests": _QUEUED_BATCHES * batch.max_size * endpoint.replicas,
                "graceful_shutdown_timeout_s": endpoint.serving.timeout_s,
                "ray_actor_options": {
                    "num_cpus": resources.cpus,
                    "num_gpus": resources.gpus,
                    "memory": int(resources.memory_gib * 2**30),
                },
            }
        ],
    }
