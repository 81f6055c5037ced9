"""A real MLflow server and a real S3 server for all tests of this folder, and a tiny model to work on."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from deploy_targets.local import parts
from deploy_targets.local.home import Home
from deploy_targets.local.process import await_ready, end_all, free_port, spawn
from registry.artifact_store import ArtifactStore, connect_store
from registry.errors import ArtifactStoreUnavailable
from registry.mlflow_registry import MlflowRegistry
from registry.settings import RegistrySettings
from registry.tracking import Tracking, connect_mlflow

ROOT = Path(__file__).parents[2]
_PORTS = (
    "s3", "s3_grpc", "weed_master", "weed_master_grpc", "weed_volume", "weed_volume_grpc",
    "weed_filer", "weed_filer_grpc", "mlflow",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Servers:
    """What runs, and the environment in which a pipeline uses it."""

    environment: dict[str, str]
    store: ArtifactStore
    registry: MlflowRegistry
    tracking: Tracking
    client: object
    """MLflow's own client, to look behind the adapters."""


@pytest.fixture(scope="session")
def servers(tmp_path_factory) -> Iterator[Servers]:
    home = Home(tmp_path_factory.mktemp("servers"))
    secrets = home.secrets()
    taken: set[int] = set()
    ports = {name: free_port(0, taken) for name in _PORTS}
    records = {
        name: spawn(
            part.command,
            log=home.log(name),
            environment={**os.environ, **part.environment},
            folder=part.folder,
        )
        for name, part in (
            ("s3", parts.seaweedfs(home, secrets, ports)),
            ("mlflow", parts.mlflow_server(home, secrets, ports)),
        )
    }
    url = f"http://127.0.0.1:{ports['mlflow']}"
    keys = (secrets.s3_access_key, secrets.s3_secret_key)
    settings = RegistrySettings(tracking_uri=url, s3_endpoint_url=f"http://127.0.0.1:{ports['s3']}")

    def s3_answers() -> bool:
        try:
            with httpx2.Client(timeout=2) as http:
                if not http.get(f"{settings.s3_endpoint_url}/healthz").is_success:
                    return False
            for bucket in (parts.BUCKET, parts.MLFLOW_BUCKET):
                named = settings.model_copy(update={"bucket": bucket})
                connect_store(named, keys=keys).ensure_bucket()
        except (httpx2.HTTPError, ArtifactStoreUnavailable):
            return False
        return True

    def mlflow_answers() -> bool:
        try:
            return httpx2.get(f"{url}/health", timeout=2).is_success
        except httpx2.HTTPError:
            return False

    try:
        for name, answers in (("s3", s3_answers), ("mlflow", mlflow_answers)):
            await_ready(name, answers, record=records[name], log=home.log(name), limit_s=120)
        client = connect_mlflow(settings)
        yield Servers(
            environment={
                "MLFLOW_TRACKING_URI": url,
                "SHIPWAY_BUCKET": parts.BUCKET,
                **parts.s3_environment(secrets, port=ports["s3"]),
            },
            store=connect_store(settings, keys=keys),
            registry=MlflowRegistry(client),
            tracking=Tracking(client),
            client=client,
        )
    finally:
        alive = [process for record in records.values() if (process := record.find())]
        end_all(alive, patience_s=2)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A pipeline command with its environment."""

    environment: dict[str, str]
    home: Path

    def start(self, module: str, *arguments: str, **extra: str) -> psutil.Popen:
        return psutil.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, **extra},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )


@pytest.fixture
def command(servers, tmp_path) -> Command:
    home = tmp_path / "home"
    environment = {
        **servers.environment,
        "SHIPWAY_HOME": str(home),
        "MLFLOW_EXPERIMENT_NAME": tmp_path.name,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Command(environment=environment, home=home)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random Llama of two blocks (hidden size 64) with a byte-level tokenizer of 256 words and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*alphabet, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=288,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=words["<end>"],
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_copy(tiny_model, tmp_path) -> Callable[[str], Path]:
    """A copy of the tiny model, to be spoilt."""
    import shutil

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / name))

    return copy
