"""What the model repository says to Triton."""

import json
import re
from typing import Any

import pytest

from deploy_targets.triton.model_config import (
    batch_size,
    render_model_config,
    render_vllm_arguments,
)
from registry.errors import ManifestInvalid
from tests.builders import a_digest, a_release, a_triton_endpoint

VLLM = {"engine": {"kind": "vllm"}, "resources": {"cpus": 8, "gpus": 2, "memory_gib": 64}}


def config(**changes: Any) -> str:
    """The text with single spaces, so that layout does not matter."""
    text = render_model_config(a_triton_endpoint(**changes), a_release("7"))
    return re.sub(r"\s+", " ", text)


def test_the_model_has_the_endpoints_name_and_serves_the_versions_own_number() -> None:
    assert 'name: "chat"' in config()
    assert "version_policy { specific { versions: [ 7 ] } }" in config()


def test_requests_are_batched_and_wait_as_they_were_told() -> None:
    text = config(batching={"max_size": 16, "max_delay_ms": 50}, serving={"timeout_s": 2.5})
    assert "max_batch_size: 16" in text
    assert "max_queue_delay_microseconds: 50000" in text
    assert "default_timeout_microseconds: 2500000" in text
    assert "max_queue_size: 128" in text


def test_a_batch_is_never_larger_than_what_the_container_lets_in() -> None:
    limited = {"container_concurrency": 4}
    assert "max_batch_size: 4" in config(triton=limited)
    assert batch_size(a_triton_endpoint()) == 8
    assert batch_size(a_triton_endpoint(triton=limited, batching={"max_size": 2})) == 2


@pytest.mark.parametrize(("gpus", "kind"), [(0, "KIND_CPU"), (1, "KIND_GPU")])
def test_the_python_backend_runs_where_the_devices_are(gpus: int, kind: str) -> None:
    text = config(resources={"cpus": 8, "gpus": gpus, "memory_gib": 16})
    assert 'backend: "python"' in text
    assert f"instance_group [ {{ count: 1 kind: {kind} }} ]" in text


def test_answers_are_cached_only_where_there_is_a_cache() -> None:
    assert "response_cache { enable: false }" in config()
    assert "response_cache { enable: true }" in config(triton={"response_cache_bytes": 1 << 30})


def test_whatever_changes_an_answer_is_an_input_for_parameters_are_no_part_of_the_caches_key() -> (
    None
):
    inputs = config().split("input [")[1].split("] output [")[0]
    assert re.findall(r'name: "(\w+)"', inputs) == ["text_input", "sampling_parameters"]


def test_answers_are_streamed_where_no_cache_would_keep_them() -> None:
    assert "model_transaction_policy { decoupled: true }" in config()
    assert "decoupled: false" in config(triton={"response_cache_bytes": 1 << 30})


def test_the_model_is_told_what_it_must_know() -> None:
    text = config(engine={"max_context_tokens": 512, "threads": 3}, resources={"cpus": 3})
    told = dict(re.findall(r'key: "(\w+)" value: { string_value: "([^"]*)" }', text))
    assert told == {"digest": a_digest("7"), "max_context_tokens": "512", "threads": "3"}


def test_the_vllm_backend_streams_and_batches_by_itself() -> None:
    text = config(**VLLM)
    assert 'backend: "vllm"' in text
    assert "model_transaction_policy { decoupled: true }" in text
    assert "kind: KIND_MODEL" in text
    assert "dynamic_batching" not in text
    assert "response_cache" not in text


def test_vllm_is_told_where_kserve_puts_the_checkpoint_and_how_to_run_it() -> None:
    endpoint = a_triton_endpoint(**VLLM, batching={"max_size": 16})
    assert json.loads(render_vllm_arguments(endpoint, a_release("7"))) == {
        "model": "/mnt/models/chat/7/checkpoint",
        "max_model_len": 2048,
        "max_num_seqs": 16,
        "tensor_parallel_size": 2,
    }


@pytest.mark.parametrize("version", ["0", "1.2", "latest", "²", ""])
def test_a_version_that_is_no_number_is_refused(version: str) -> None:
    with pytest.raises(ManifestInvalid, match="no version number"):
        render_model_config(a_triton_endpoint(), a_release(version))
