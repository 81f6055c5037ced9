"""Where a model version came from, told on the version itself: its base, licence, recipe, data and scores.

The work folders know: each notes its inputs and what it made, by digest. So a version that was made stage by stage
tells the same as one made by `release`. What is told: tags and a bill of materials, and MLflow's own inputs and outputs.
"""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pipelines.bill_of_materials import FILE_NAME, Facts, render_bill
from pipelines.workbench import Workbench
from registry.release import (
    BILL_TAG,
    DATA_TAG,
    LICENCE_TAG,
    REVISION_TAG,
    SOURCE_TAG,
    ArtifactManifest,
    Digest,
)

if TYPE_CHECKING:
    from pipelines.evaluate.stage import Evaluation
    from pipelines.session import Session, Stage

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ORIGIN_TAGS = {"source": SOURCE_TAG, "revision": REVISION_TAG, "licence": LICENCE_TAG}


def find_origin(bench: Workbench, base: Digest) -> Mapping[str, str]:
    """What is known of where the unquantized checkpoint came from; empty where it was not made on this machine."""
    made = [maker for maker in bench.makers(base) if maker.made == base and maker.facts]
    return made[-1].facts if made else {}


def find_data(bench: Workbench, model: Digest) -> Mapping[str, str]:
    """The digests of what the model was made with and measured on, by what they are for.

    What something else was made of it with is not among them.
    """
    data: dict[str, str] = {}
    for maker in bench.makers(model):
        if maker.stage == "retrain":
            continue
        if maker.stage == "evaluate" or (maker.stage != "download" and maker.made == model):
            data |= _digests(maker.inputs)
    return data


def find_training(bench: Workbench, base: Digest) -> Mapping[str, str]:
    """The digest of what the unquantized checkpoint was trained on here, as `training`; empty where it was not."""
    made = [one for one in bench.makers(base) if one.made == base and one.stage == "retrain"]
    return {"training": str(made[-1].inputs["data"])} if made else {}


def tell(  # noqa: PLR0913 - all that is known of a version
    session: "Session",
    stage: "Stage",
    *,
    name: str,
    source: str,
    manifest: ArtifactManifest,
    evaluation: "Evaluation",
    recipe: Mapping[str, object],
) -> dict[str, str]:
    """Logs the bill of materials and the lineage on the run that makes the version; returns the version's tags."""
    base = evaluation.base
    origin = session.origins.get(base) or find_origin(session.bench, base)
    data = {**find_data(session.bench, manifest.digest), **find_training(session.bench, base)}
    bill = render_bill(
        Facts(
            name=name,
            source=source,
            manifest=manifest,
            base=base,
            origin=origin,
            recipe=recipe,
            data=data,
            scores={
                which: (score.value, score.stderr)
                for which, score in evaluation.scorecard.scores.items()
            },
            gate=evaluation.gate.numbers,
        )
    )
    for run_id in dict.fromkeys((stage.run_id, session.run_id)):
        session.tracking.log_text(run_id, bill, FILE_NAME)
    given = {"base": (origin.get("source", "unquantized checkpoint"), str(base))}
    session.tracking.log_inputs(
        session.run_id, given | {role: (role, digest) for role, digest in data.items()}
    )
    session.tracking.log_model(
        session.run_id,
        name=name,
        params={
            "base": str(base),
            "artifact": source,
            **{f"source.{key}": value for key, value in origin.items()},
            **{f"recipe.{key}": value for key, value in recipe.items()},
            **{f"data.{role}": digest for role, digest in data.items()},
        },
        metrics={
            **{which: score.value for which, score in evaluation.scorecard.scores.items()},
            **{f"gate.{key}": value for key, value in evaluation.gate.numbers.items()},
        },
    )
    told = {tag: origin[fact] for fact, tag in _ORIGIN_TAGS.items() if origin.get(fact)}
    return {
        **told,
        DATA_TAG: json.dumps(data, sort_keys=True),
        BILL_TAG: f"runs:/{session.run_id}/{FILE_NAME}",
    }


def _digests(inputs: Any) -> dict[str, str]:
    """Every digest in a stage's inputs by its name, but those of models."""
    found: dict[str, str] = {}
    for name, value in cast("Mapping[str, Any]", inputs).items():
        if isinstance(value, dict):
            found |= _digests(value)
        elif name not in {"model", "base"} and isinstance(value, str) and _DIGEST.fullmatch(value):
            found[name] = value
    return found
