"""What our vLLM application adds to Ray's, without Ray or vLLM around it; `tests.engines` runs all of it for real."""

import asyncio
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from deploy_targets.ray_serve.serve_config import render_application
from deploy_targets.ray_serve.vllm_app import VerifiedArtifact, VllmArgs, build, verified
from registry.release import split_source
from tests.builders import a_digest, a_ray_endpoint, a_release


def rendered() -> dict[str, Any]:
    endpoint = a_ray_endpoint(engine={"kind": "vllm"})
    return render_application(endpoint, a_release("7"))["args"]


def test_an_argument_that_it_does_not_know_is_refused() -> None:
    with pytest.raises(ValidationError, match="dygest"):
        build({**rendered(), "dygest": ""})


def test_ray_is_given_nothing_to_fetch_and_is_told_whom_to_ask() -> None:
    schema = importlib.import_module("ray.llm._internal.serve.core.configs.llm_config")
    clouds = importlib.import_module("ray.llm._internal.common.utils.cloud_utils")
    imports = importlib.import_module("ray.llm._internal.common.utils.import_utils")

    config = schema.LLMConfig.model_validate(verified(VllmArgs(**rendered())))

    source = config.model_loading_config.model_source
    assert Path(source).is_absolute()
    assert not Path(source).exists()
    assert not clouds.is_remote_path(source)
    assert imports.load_class(config.callback_config.callback_class) is VerifiedArtifact
    assert config.callback_config.raise_error_on_callback
    assert config.callback_config.callback_kwargs == {
        "source": "s3://shipway/models/7",
        "digest": a_digest("7"),
    }


class Nodes:
    """Ray's order of calls around the start of an engine: first in the replica, then on each node."""

    def __init__(self, home: Path, stored: Any, servers: Any) -> None:
        self.engine = SimpleNamespace(hf_model_id="/not-fetched-yet")
        self.patch = pytest.MonkeyPatch()
        for name, value in {**servers.environment, "SHIPWAY_HOME": str(home)}.items():
            self.patch.setenv(name, value)
        self.callback = VerifiedArtifact(
            source=stored.source,
            digest=stored.manifest.digest,
            llm_config=SimpleNamespace(get_engine_config=lambda: self.engine),
        )

    def start(self) -> Path:
        """The folder that vLLM is given."""
        asyncio.run(self.callback.run_callback("on_before_node_init"))
        given = self.engine.hf_model_id
        self.callback.run_callback_sync("on_before_download_model_files_distributed")
        assert self.engine.hf_model_id == given  # Ray read it before the nodes fetched
        return Path(given)


@pytest.fixture
def artifact(tmp_path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"of": "{tmp_path.name}"}}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def nodes(servers, artifact, tmp_path):
    made = Nodes(tmp_path / "home", servers.store.put(artifact), servers)
    yield made
    made.patch.undo()


@pytest.mark.real
def test_vllm_is_given_the_folder_that_every_node_has_fetched(nodes, artifact) -> None:
    folder = nodes.start()
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == {
        one.name: one.read_bytes() for one in artifact.iterdir()
    }


@pytest.mark.real
def test_a_changed_byte_ends_the_start_and_says_which_file_it_is_in(nodes, servers) -> None:
    bucket, prefix = split_source(nodes.callback._source)
    servers.store._client.put_object(
        Bucket=bucket, Key=f"{prefix}/model.safetensors", Body=b"weighty"
    )
    with pytest.raises(Exception, match=r"bytes of model\.safetensors that arrived are not those"):
        nodes.start()
    assert not Path(nodes.engine.hf_model_id).exists()
