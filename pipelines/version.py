"""`mlflow run . -e version -P name=... -P model=DIR -P evaluation=FILE`: the artifact into S3, the row into MLflow.

The bytes go first, then the signature, and the row last, with all its tags in one call: a version that can be seen is whole. A version
whose gate failed is registered too, so that people see why; `promotion.check_gate` refuses to promote it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipelines.checkpoint import read_config
from pipelines.evaluate.stage import Evaluation
from pipelines.lineage import tell
from pipelines.quantize.__main__ import read_recipe
from pipelines.quantize.recipes import Recipe
from pipelines.quantize.served_by import format_facts
from pipelines.session import Model, Session, run_entry_point
from registry.artifact_store import StoredArtifact
from registry.errors import BadInput, IntegrityError
from registry.release import (
    BASE_TAG,
    DIGEST_TAG,
    GATE_TAG,
    RECIPE_TAG,
    SCORECARD_TAG,
    SIGNATURE_TAG,
    SIZE_TAG,
)

VERSION_TAG = "shipway.version"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_name(name: str) -> None:
    """Refuses what cannot name a registered model and a part of an address.

    Raises:
        BadInput: it cannot.
    """
    if not _NAME.fullmatch(name):
        message = (
            f"{name!r} cannot name a registered model. Use letters, digits, dots, dashes and underscores, "
            "a letter or digit first."
        )
        raise BadInput(message)


def version(
    session: Session,
    *,
    name: str,
    model: Model,
    evaluation: Evaluation,
    recipe: Recipe | None,
    lineage: Mapping[str, str] | None = None,
) -> str:
    """The number of the version of the registered model `name` that is `model`, new or made by this same run before.

    `lineage` are more tags of it: where its base came from.

    Raises:
        IntegrityError: the evaluation is of other bytes, or a file has changed since. Nothing is registered then.
        ArtifactStoreUnavailable, RegistryUnavailable: nothing is registered then.
    """
    if evaluation.model != model.digest:
        message = (
            f"{model.folder} has the digest {model.digest}, but {evaluation.model} was evaluated. "
            "Run `evaluate` on this model."
        )
        raise IntegrityError(message)
    with session.stage(
        "version", f"{model.size_mib:.1f} MiB into S3, then a version of {name}"
    ) as stage:
        with session.announcer.bar(
            "upload", total=model.manifest.size_bytes, unit="bytes"
        ) as advance:
            stored = session.store.put(model.folder, manifest=model.manifest, on_bytes=advance)
        tags = {
            DIGEST_TAG: model.digest,
            GATE_TAG: evaluation.gate.to_json(),
            SCORECARD_TAG: evaluation.scorecard.to_json(),
            BASE_TAG: evaluation.base,
            SIZE_TAG: str(model.manifest.size_bytes),
            **format_facts(read_config(model.folder, where=str(model.folder))),
        }
        key = _sign(session, stored)
        if key is not None:
            tags[SIGNATURE_TAG] = key
        if recipe is not None:
            tags[RECIPE_TAG] = recipe.model_dump_json()
        tags |= tell(
            session,
            stage,
            name=name,
            source=stored.source,
            manifest=model.manifest,
            evaluation=evaluation,
            recipe={} if recipe is None else recipe.model_dump(mode="json"),
        )
        tags |= lineage or {}
        number, is_new = session.registry.register(
            name,
            source=stored.source,
            run_id=session.run_id,
            tags=tags,
            description=describe(model.size_mib, evaluation, recipe),
        )
        stage.log_inputs({"model": (stored.source, model.digest)})
        stage.log_params({"registered_model": name, "version": number, "artifact": stored.source})
        stage.hand_over(model)
        stage.set_tags({VERSION_TAG: number})
        found = "" if is_new else ", registered by this run before"
        place = "was there" if stored.was_there else "uploaded"
        signed = "not signed" if key is None else f"signed with {key}"
        session.announcer.say(
            "version", f"{name} v{number}{found}; {stored.source} {place}, {signed}"
        )
    return number


def _sign(session: Session, stored: StoredArtifact) -> str | None:
    """The id of the key whose signature lies beside the artifact now; None where the session has no key."""
    key = session.signing_key
    if key is None:
        return None
    try:
        # Kept where it is good: each new one has other bytes.
        signature = session.store.signature(stored.source)
        key.trusted.check(stored.manifest, signature, source=stored.source)
    except IntegrityError:
        session.store.sign(stored.source, key.sign(stored.manifest))
    return key.id


def describe(size_mib: float, evaluation: Evaluation, recipe: Recipe | None) -> str:
    """What a person wants to know of a version at a glance: the recipe, the size, each score, the gate's answer."""
    made = "" if recipe is None else f"{recipe}; "
    told = [f"{made}{size_mib:.1f} MiB"]
    gate = evaluation.gate
    for name, score in evaluation.scorecard.scores.items():
        base = gate.numbers.get(f"{name}.base")
        beside = "" if base is None else f" (unquantized {base:.4g})"
        told.append(f"{name} {score.value:.4g} ± {score.stderr:.2g}{beside}")
    told.append("gate passed" if gate.passed else f"gate failed: {'; '.join(gate.reasons)}")
    return ". ".join(told)


def main(
    name: Annotated[str, typer.Option(help="The registered model.")],
    model: Annotated[Path, typer.Option(help="The checkpoint's folder.")],
    evaluation: Annotated[Path, typer.Option(help="The evaluation.json of this checkpoint.")],
    recipe: Annotated[str, typer.Option(help="The recipe file it was made by.")] = "",
) -> None:
    """Put a checkpoint into S3 and register it as a model version."""
    with Session.open("version", fresh=False) as session:
        check_name(name)
        parsed = read_recipe(Path(recipe)) if recipe else None
        version(
            session,
            name=name,
            model=Model.at(model),
            evaluation=Evaluation.read(evaluation),
            recipe=parsed,
        )


if __name__ == "__main__":
    run_entry_point(main)
