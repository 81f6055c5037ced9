"""vLLM for real, on this machine's CPU: our own GPTQ artifact, alone and through Ray from the rendered config.

SmolLM2 is quantized by the pipeline's own step first, for a sensible answer wants a real model. vLLM's CPU build lives
in an environment of its own (`make setup-vllm`). What is printed are measurements, and no test depends on them.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from deploy_targets.local.process import await_ready, end_all, find_marked, free_port, spawn
from deploy_targets.ray_serve.serve_config import render_serve_config
from pipelines.datasets import write_demo_data
from registry.artifact_store import StoredArtifact
from registry.release import Release, split_source
from tests.bench.gptq import write_base
from tests.builders import a_ray_endpoint
from tests.flows.test_the_stack import assert_on_loopback
from tests.local.platform import Platform, a_platform
from tests.repo.reference import ROOT
from tests.servers import Servers

ENVIRONMENT = ROOT / ".venv-vllm"
PYTHON = ENVIRONMENT / "bin" / "python"

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (ENVIRONMENT / ".ready").exists(),
        reason="vLLM's own environment is missing: run `make setup-vllm`",
    ),
]

LIMIT_S = 600
RECIPE = "method: gptq\nbits: 4\ngroup_size: 64\nsamples: 4\nsequence_length: 256\n"
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ENDPOINT = a_ray_endpoint(
    engine={"kind": "vllm", "max_context_tokens": 512},
    resources={"cpus": 2, "memory_gib": 4},
    batching={"max_size": 8},
)
_VERSIONS = """
from importlib.metadata import requires, version
print("vllm-cpu", version("vllm-cpu"), "and ray", version("ray"), "with torch", version("torch"), "and transformers",
      version("transformers") + "; ray's extra llm names", [r for r in requires("ray") if r.startswith("vllm")][0])
"""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The checkpoint that the pipeline made, as a folder and in S3."""

    folder: Path
    stored: StoredArtifact


def say(text: str) -> None:
    print(f"\n  {text}", flush=True)


@pytest.fixture(scope="module", autouse=True)
def versions() -> None:
    said = subprocess.run([PYTHON, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    say(f"proven on {said.stdout.strip()}")


@pytest.fixture(scope="module")
def artifact(servers: Servers, tmp_path_factory) -> Artifact:
    folder = tmp_path_factory.mktemp("gptq")
    environment = {
        **os.environ,
        **servers.environment,
        "SHIPWAY_HOME": str(folder / "home"),
        "GPTQMODEL_CPU_WORKERS": "2",
        "PYTHONPATH": str(ROOT),
    }
    started = time.monotonic()
    write_demo_data(folder / "data")
    (folder / "recipe.yaml").write_text(RECIPE)
    base = write_base(folder, environment, tiny=False)
    words = [sys.executable, "-m", "pipelines.quantize", "--model", base, "--recipe"]
    done = subprocess.run(
        [*words, folder / "recipe.yaml", "--data", folder / "data"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    [model] = (folder / "home" / "work").glob("quantize-*/model")
    say(f"SmolLM2 quantized by the pipeline in {time.monotonic() - started:.0f} s")
    return Artifact(folder=model, stored=servers.store.put(model))


def a_release_of(stored: StoredArtifact, version: str) -> Release:
    return Release(
        model="smollm2", version=version, source=stored.source, digest=stored.manifest.digest
    )


class Client:
    """OpenAI's own client of one server, whose model is called `chat`."""

    def __init__(self, url: str, *, limit_s: float = LIMIT_S) -> None:
        self._openai = openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", timeout=limit_s, max_retries=0
        )

    def ask(self, messages: list[Any], **more: Any) -> Any:
        asked = {"model": "chat", "temperature": 0, "max_tokens": 32, **more}
        return self._openai.chat.completions.create(messages=messages, **asked)

    def whole(self) -> str:
        return self.ask(QUESTION).choices[0].message.content

    def streamed(self) -> list[str]:
        chunks = self.ask(QUESTION, stream=True)
        return [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]

    def tokens(self, number: int) -> int:
        story = [{"role": "user", "content": f"Tell me a long story about the number {number}."}]
        return self.ask(story, extra_body={"ignore_eos": True}).usage.completion_tokens

    def answer_many(self, who: str) -> None:
        """Four stories one after the other, then 24 by eight clients at once; each in full."""
        rates: list[str] = []
        for clients, stories in ((1, 4), (8, 24)):
            started = time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                tokens = list(pool.map(self.tokens, range(stories)))
            assert tokens == [32] * stories
            rate = sum(tokens) / (time.monotonic() - started)
            rates.append(f"{rate:.1f} tokens/s at {clients}")
        say(f"{who}: {', '.join(rates)} clients")


@contextmanager
def vllm_alone(model: Path, folder: Path) -> Iterator[tuple[Client, Path]]:
    """`vllm serve` on a checkpoint, and its log."""
    port, log, mark = free_port(0, set()), folder / "vllm.log", f"{folder}|"
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/health", timeout=5).is_success
        except httpx2.HTTPError:
            return False

    started = time.monotonic()
    record = spawn(
        [
            *(ENVIRONMENT / "bin" / "vllm", "serve", model, "--served-model-name", "chat"),
            *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
            *("--max-model-len", "512", "--max-num-seqs", "8"),
        ],
        log=log,
        environment={**os.environ, **CPU},
        folder=folder,
        mark=mark,
    )
    try:
        await_ready("vllm", answers, record=record, log=log, limit_s=LIMIT_S)
        say(f"vLLM alone ready in {time.monotonic() - started:.0f} s")
        yield Client(url), log
    finally:
        end_all(find_marked(mark), patience_s=10)


def test_vllm_serves_our_artifact_and_finds_out_by_itself_how_it_is_quantized(
    artifact, tmp_path
) -> None:
    with vllm_alone(artifact.folder, tmp_path) as (client, log):
        assert "Paris" in client.whole()
        assert "quantization=auto_gptq" in log.read_text()
        client.answer_many("vLLM alone")


@pytest.fixture(scope="module")
def platform(servers: Servers, tmp_path_factory) -> Iterator[Platform]:
    with a_platform(tmp_path_factory.mktemp("ray")) as running:
        running.start_ray({**servers.environment, **CPU}, bin_folder=ENVIRONMENT / "bin")
        yield running


def deploy(platform: Platform, release: Release) -> tuple[str, str]:
    """How the only application ended, RUNNING or DEPLOY_FAILED, and what its deployments said."""
    config = render_serve_config(ENDPOINT, release)
    config["http_options"].update(host="127.0.0.1", port=platform.ports["ray_serve"])
    name = config["applications"][0]["name"]
    answer = platform.ray.put("/api/serve/applications/", json=config, timeout=120)
    assert answer.is_success, answer.text
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        details = platform.ray.get("/api/serve/applications/").json()["applications"].get(name, {})
        said = " ".join(one["message"] for one in details.get("deployments", {}).values())
        if details.get("status") in {"RUNNING", "DEPLOY_FAILED"}:
            return details["status"], said
        time.sleep(0.5)
    raise AssertionError(f"{name} is still {details.get('status')}: {said}")


def test_ray_serves_it_from_the_rendered_config_whole_and_streamed(platform, artifact) -> None:
    started = time.monotonic()
    status, said = deploy(platform, a_release_of(artifact.stored, "7"))
    assert status == "RUNNING", said
    say(f"vLLM through Ray ready in {time.monotonic() - started:.0f} s")
    client = Client(platform.url("ray_serve"))
    whole, pieces = client.whole(), client.streamed()
    assert "Paris" in whole
    assert len(pieces) > 1
    assert "".join(pieces) == whole
    for process in find_marked(platform.mark):
        assert_on_loopback(process)
    client.answer_many("vLLM through Ray")


def test_a_replica_whose_artifact_has_a_changed_byte_never_becomes_ready(
    platform, artifact, servers, tmp_path
) -> None:
    folder = Path(shutil.copytree(artifact.folder, tmp_path / "copy"))
    (folder / "README.md").write_text("Another artifact, which nobody has fetched yet.\n")
    stored = servers.store.put(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    bucket, prefix = split_source(stored.source)
    servers.store._client.put_object(
        Bucket=bucket, Key=f"{prefix}/model.safetensors", Body=bytes(weights)
    )

    status, said = deploy(platform, a_release_of(stored, "8"))

    assert status == "DEPLOY_FAILED"
    assert "The bytes of model.safetensors" in said
    assert "are not those that were evaluated" in said
    with pytest.raises(openai.APIError):  # Ray's ingress is up: it refuses, or waits for a replica
        Client(platform.url("ray_serve"), limit_s=10).whole()
