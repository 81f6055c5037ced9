"""Which engines there are, and which of them can serve a version: said by whoever made it, asked by whoever deploys it. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

ENGINES_TAG = "shipway.engines"
"""The version's tag that names the engines which can serve it, in alphabetical order, with commas between."""
FORMAT_TAG = "shipway.checkpoint_format"
"""How its weights are written, in the pipelines' words."""


class ServingEngine(StrEnum):
    """What loads a checkpoint and generates."""

    TRANSFORMERS = "transformers"
    """Ours on Ray Serve, on this machine and in a cluster."""
    TRITON_PYTHON = "triton-python"
    """Ours on Triton's python backend, whose environment has torchao alone (numpy < 2)."""
    VLLM = "vllm"
    """On Ray Serve or as Triton's backend."""


def render_engines(engines: Iterable[ServingEngine]) -> str:
    """The value of `ENGINES_TAG`."""
    return ",".join(sorted(engines))


def explain_misfit(tags: Mapping[str, str], engine: ServingEngine) -> str:
    """Why `engine` cannot serve the version with these tags; empty where it can, or where nobody said which can."""
    told = tags.get(ENGINES_TAG)
    if told is None or engine in told.split(","):
        return ""
    kind = tags.get(FORMAT_TAG, "of this kind")
    able = told.replace(",", " or ") or "no engine"
    return (
        f"the endpoint's engine {engine} cannot serve its weights ({kind}): {able} can. "
        "Change the endpoint's engine, or make a version by another recipe"
    )
