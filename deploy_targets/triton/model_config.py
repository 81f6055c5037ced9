"""What a model repository says to Triton: `config.pbtxt`, and the arguments of its vLLM backend. Pure.

The repository is `<endpoint>/config.pbtxt` and `<endpoint>/<version>/`, where the version is MLflow's own number. Engine
kind transformers is our model on Triton's python backend; kind vllm is Triton's vLLM backend. The tensors have the same
names in both (ours take a chat, vLLM's a prompt), and whatever changes an answer is an input, for the response cache's
key is made of the inputs alone. Triton caches no streamed answers: ours are streamed where there is no cache.
"""

import json

from deploy_targets.endpoint import Endpoint
from deploy_targets.engine import tensors
from deploy_targets.placement import Triton
from registry.errors import ManifestInvalid
from registry.release import Release

CONFIG_FILE, VLLM_FILE = "config.pbtxt", "model.json"
MOUNT = "/mnt/models"
"""Where KServe puts the repository before Triton starts."""

_QUEUED_BATCHES = 8
"""Batches that may wait before Triton refuses, as on Ray: an honest refusal beats a time-out."""


def batch_size(endpoint: Endpoint) -> int:
    """Requests that Triton works on together: the batch, or what the container lets in where that is less."""
    at_once = (endpoint.triton or Triton()).container_concurrency
    return min(endpoint.batching.max_size, at_once or endpoint.batching.max_size)


def render_model_config(endpoint: Endpoint, release: Release) -> str:
    """The text of `config.pbtxt`, in protobuf's text format (Triton's model_config.proto, release 2.73).

    Raises:
        ManifestInvalid: the version is no number, so it cannot be a version folder.
    """
    if not release.version.isdecimal() or int(release.version) < 1:
        message = f"{release.version!r} is no version number. Triton's folders are named by MLflow's own numbers."
        raise ManifestInvalid(message)
    is_vllm = endpoint.engine.kind == "vllm"
    head = [
        f'name: "{endpoint.name}"',
        f'backend: "{"vllm" if is_vllm else "python"}"',
        f"version_policy {{ specific {{ versions: [ {release.version} ] }} }}",
    ]
    body = _VLLM if is_vllm else _python_backend(endpoint, release)
    return "\n".join([*head, *body, ""])


def render_vllm_arguments(endpoint: Endpoint, release: Release) -> str:
    """The text of the vLLM backend's `model.json`: the checkpoint, where KServe mounts it, and how to run it."""
    arguments = {
        "model": f"{MOUNT}/{endpoint.name}/{release.version}/{tensors.CHECKPOINT_FOLDER}",
        "max_model_len": endpoint.engine.max_context_tokens,
        "max_num_seqs": batch_size(endpoint),
        "tensor_parallel_size": int(endpoint.resources.gpus),
    }
    return json.dumps(arguments, indent=1) + "\n"


_VLLM = (
    # It batches by itself, request by request, and streams every answer.
    "max_batch_size: 0",
    "model_transaction_policy { decoupled: true }",
    "instance_group [ { count: 1 kind: KIND_MODEL } ]",
)


def _python_backend(endpoint: Endpoint, release: Release) -> list[str]:
    batch = batch_size(endpoint)
    kind = "KIND_GPU" if endpoint.resources.gpus else "KIND_CPU"
    caches = (endpoint.triton or Triton()).response_cache_bytes is not None
    parameters = {
        "digest": release.digest,
        "max_context_tokens": str(endpoint.engine.max_context_tokens),
        "threads": str(endpoint.engine.threads),
    }
    return [
        f"max_batch_size: {batch}",
        *_tensors("input", TYPE_STRING=(tensors.TEXT_INPUT, tensors.SAMPLING_PARAMETERS)),
        *_tensors(
            "output",
            TYPE_STRING=(tensors.TEXT_OUTPUT, tensors.FINISH_REASON),
            TYPE_INT32=(tensors.INPUT_TOKENS, tensors.OUTPUT_TOKENS),
        ),
        f"model_transaction_policy {{ decoupled: {'false' if caches else 'true'} }}",
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
        "dynamic_batching {",
        f"  max_queue_delay_microseconds: {endpoint.batching.max_delay_ms * 1000}",
        "  default_queue_policy {",
        "    timeout_action: REJECT",
        f"    default_timeout_microseconds: {int(endpoint.serving.timeout_s * 1_000_000)}",
        f"    max_queue_size: {_QUEUED_BATCHES * batch}",
        "  }",
        "}",
        f"response_cache {{ enable: {'true' if caches else 'false'} }}",
        *(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
            for key, value in parameters.items()
        ),
    ]


def _tensors(side: str, **names: tuple[str, ...]) -> list[str]:
    """The lines that declare the tensors of one side, by data type."""
    lines = [
        f'  {{ name: "{name}" data_type: {kind} dims: [ 1 ] }}'
        for kind, several in names.items()
        for name in several
    ]
    return [f"{side} [", ",\n".join(lines), "]"]
