"""Ray's own vLLM application, which is given nothing but a verified local folder to load.

Left to itself Ray fetches a checkpoint and compares nothing. Here each node on which the engine runs fetches the
artifact by its digest before vLLM starts; where the bytes are others, the replica never becomes ready. Ray's rendered
options pass through as they are. The engine for every kind of checkpoint is `app`.
"""

import importlib
from typing import Any

from pydantic import BaseModel, ConfigDict

from deploy_targets.ray_serve.listener import listen_on_the_nodes_address_only
from deploy_targets.ray_serve.settings import EngineSettings
from registry.artifact_store import connect_store
from registry.release import Digest
from registry.settings import RegistrySettings

_rays: Any = importlib.import_module("ray.llm._internal.common.callbacks.base")

_NOWHERE = "/not-fetched-yet"
"""Ray's model source until ours is there. It is no name of a model in a hub, so nothing else can be loaded by it."""


class VllmArgs(BaseModel):
    """The arguments that `serve_config` renders; an unknown one is refused, and Ray refuses those of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    digest: str
    llm_config: dict[str, Any]
    """Ray's LLMConfig, but for where the model comes from."""
    ingress_deployment_config: dict[str, Any]


class VerifiedArtifact(_rays.CallbackBase):
    """Ray calls it around the start of an engine; an exception ends the replica."""

    def __init__(self, *, source: str, digest: str, **rays: Any) -> None:
        super().__init__(**rays)  # pyright: ignore[reportUnknownMemberType] - Ray has no types
        self._source = source
        self._digest = Digest(digest)
        self._copies = (EngineSettings().home / "models").resolve()

    async def on_before_node_init(self) -> None:
        """In the replica, before Ray sends its tasks to the nodes: they and vLLM find the model in our folder."""
        listen_on_the_nodes_address_only()
        engine = self.llm_config.get_engine_config()
        engine.hf_model_id = str(self._copies / self._digest.removeprefix("sha256:"))

    def on_before_download_model_files_distributed(self) -> None:
        """In a task on each node of the engine, before Ray looks whether there is something to fetch.

        Raises:
            IntegrityError: the bytes are not those that were evaluated.
            NotFound: there is no finished artifact.
            ArtifactStoreUnavailable: S3 did not answer or refused.
        """
        connect_store(RegistrySettings()).fetch(self._source, self._digest, into=self._copies)


def build(args: dict[str, Any]) -> Any:
    """What `import_path` names: Ray's OpenAI application around vLLM, for these arguments."""
    wanted = VllmArgs.model_validate(args)
    # Not at the top: they want vLLM, which is in the engine's own environment alone.
    llm: Any = importlib.import_module("ray.serve.llm")
    rays_ingress: Any = importlib.import_module("ray.serve.llm.ingress").OpenAiIngress

    class Ingress(rays_ingress):
        """A replica like any other, so its port is open as well."""

        def __init__(self, *args: Any, **named: Any) -> None:
            listen_on_the_nodes_address_only()
            super().__init__(*args, **named)  # pyright: ignore[reportUnknownMemberType] - Ray has no types

    return llm.build_openai_app(
        {
            "llm_configs": [verified(wanted)],
            "ingress_cls_config": {"ingress_cls": Ingress},
            "ingress_deployment_config": wanted.ingress_deployment_config,
        }
    )


def verified(wanted: VllmArgs) -> dict[str, Any]:
    """Ray's LLMConfig whose model is fetched by its digest."""
    config = wanted.llm_config
    return {
        **config,
        "model_loading_config": {**config["model_loading_config"], "model_source": _NOWHERE},
        "callback_config": {
            "callback_class": f"{__name__}:{VerifiedArtifact.__name__}",
            "callback_kwargs": {"source": wanted.source, "digest": wanted.digest},
        },
    }
