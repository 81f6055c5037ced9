"""`mlflow run . -e retrain -P name=... -P data=FILE`: the champion's base learns from new data and becomes a version.

The base is fetched by what the champion's tags say, an adapter is trained and merged, and then all is as for `release`.
The merged checkpoint is kept in S3: the next retraining begins there.
"""

import csv
import json
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from pipelines.chain import make_version
from pipelines.checkpoint import block_in_features, check_checkpoint, read_config
from pipelines.datasets import DataFolder, demo_data
from pipelines.declared import read_declared
from pipelines.download.__main__ import download
from pipelines.evaluate.margins import MarginsFile, read_margins
from pipelines.evaluate.stage import evaluation_of, read_measures
from pipelines.loading import has_gpu, load_tokenizer
from pipelines.progress import hushed_library
from pipelines.quantize.__main__ import pin_recipe, read_recipe
from pipelines.quantize.canonical import make_canonical
from pipelines.quantize.served_by import check_served
from pipelines.retrain.examples import Example, divide, parse_examples, read_content, tokenize
from pipelines.retrain.made import Wanted, find_made
from pipelines.retrain.parent import check_base, find_base, parse_parent
from pipelines.retrain.recipe import AdapterRecipe, check_targets, parse_adapter
from pipelines.session import REUSED_TAG, Model, Session, Stage, Switch, run_entry_point
from pipelines.version import VERSION_TAG, check_name
from pipelines.workbench import Product, code_of, key_of
from registry.digests import digest_bytes
from registry.engines import ServingEngine
from registry.errors import (
    BadInput,
    IntegrityError,
    NotFound,
    RecipeInvalid,
)
from registry.parts import fetch_files
from registry.promotion import AliasTrigger, MoveAlias, check_gate
from registry.release import (
    ADAPTER_TAG,
    LICENCE_TAG,
    PARENT_TAG,
    SOURCE_TAG,
    TRAINING_DATA_TAG,
    Digest,
    ModelVersion,
    Release,
    parse_digest,
)
from registry.s3_files import list_files

_LIBRARIES = ("torch", "transformers", "peft", "safetensors")
_LOSSES = "training.csv"
_ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
_CHALLENGER = AliasTrigger().alias


def read_adapter(file: Path) -> AdapterRecipe:
    """The adapter's recipe in `file`.

    Raises:
        RecipeInvalid: it cannot be read, or cannot be used.
    """
    what = f"The recipe {file}"
    text = read_declared(
        file, what=what, see="recipes/adapters/ for examples", refused=RecipeInvalid
    )
    return parse_adapter(text, where=str(file))


def read_data(content: bytes, *, where: str, digest: str) -> tuple[tuple[Example, ...], Digest]:
    """The examples in `content` and its digest, which is `digest` where that is given.

    Raises:
        BadInput: they cannot be used.
        IntegrityError: other bytes were asked for.
    """
    promised = parse_digest(digest) if digest else None
    examples = parse_examples(content, where=where)
    found = digest_bytes(content)
    if promised is not None and found != promised:
        message = (
            f"{where} has the digest {found}, but {promised} was asked for. Somebody changed the data, "
            "or the digest belongs to other data."
        )
        raise IntegrityError(message)
    return examples, found


def fetch_data(session: Session, address: str) -> bytes:
    """The training data that `address` names: a path, or an `s3://` folder with one `.jsonl` file in it.

    Raises:
        BadInput: the folder holds another number of them.
        NotFound, ArtifactStoreUnavailable: S3 does not have it, or does not answer.
    """
    if not address.startswith("s3://"):
        return read_content(Path(address).expanduser())
    files = [f for f in list_files(session.connect_s3(), address) if f.path.endswith(".jsonl")]
    if len(files) != 1:
        message = f"{address} holds {len(files)} .jsonl files. Name a folder that holds one."
        raise BadInput(message)
    training = session.home / "training"
    training.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=training, prefix="data-") as name:
        folder = fetch_files(files, Path(name), on_bytes=lambda _: None)
        return read_content(folder / files[0].path)


def fetch_base(session: Session, parent: ModelVersion, *, named: str) -> Model:
    """The unquantized checkpoint that `parent` was made of; `named` is where a person says that it is.

    Raises:
        SourceInvalid: it is not known, not there, or not what the version was made of.
    """
    where = find_base(parent, named=named)
    base = download(session, source=where.source)
    config = read_config(base.folder, where=where.source)
    check_base(parent, where, digest=base.digest, is_quantized="quantization_config" in config)
    return base


def retrain(  # noqa: PLR0913 - each is an input of the stage
    session: Session,
    *,
    parent: ModelVersion,
    base: Model,
    recipe: AdapterRecipe,
    data: str,
    data_digest: Digest,
    examples: tuple[Example, ...],
) -> tuple[Model, str]:
    """The base after training, and where it lies in S3.

    Raises:
        RecipeInvalid: the recipe does not fit the model.
        BadInput: nothing in the data can be learned.
        StageFailed: training failed, or the disk is full.
    """
    check_targets(recipe, block_in_features(base.folder), where=str(base.folder))
    with session.stage("retrain", f"{recipe}; {len(examples)} examples") as stage:
        stage.log_params({f"adapter.{key}": value for key, value in recipe.model_dump().items()})
        stage.log_inputs(
            {
                "parent": (f"models:/{parent.model}/{parent.version}", base.digest),
                "base model": (str(base.folder), base.digest),
                "training data": (data, data_digest),
            }
        )
        key: dict[str, object] = {
            "base": base.digest,
            "data": data_digest,
            "recipe": recipe.model_dump(mode="json"),
            "device": "cuda" if has_gpu() else "cpu",
            "code": code_of(__file__, _LIBRARIES),
        }
        saved = session.home / "training" / f"{key_of(key)}.safetensors"
        finished = stage.do(
            key,
            lambda folder: _train(
                session, stage, folder, base=base, recipe=recipe, examples=examples, saved=saved
            ),
        )
        if finished.is_reused:
            for step, loss in _read_losses(finished.folder / _LOSSES):
                session.tracking.log_metrics(stage.run_id, {"train_loss": loss}, step=step)
        made = Model(folder=finished.folder / "model", manifest=finished.files_of("model"))
        told = finished.product.metrics
        session.announcer.say(
            "retrain",
            f"held-out loss {told['holdout_loss_before']:.4g} -> {told['holdout_loss']:.4g} nats a token "
            f"after {told['steps']:.0f} steps",
        )
        with session.announcer.bar(
            "upload", total=made.manifest.size_bytes, unit="bytes"
        ) as advance:
            stored = session.store.put(made.folder, on_bytes=advance)
        stage.hand_over(made)
    return made, stored.source


def _train(  # noqa: PLR0913 - what the stage was given
    session: Session,
    stage: Stage,
    folder: Path,
    *,
    base: Model,
    recipe: AdapterRecipe,
    examples: tuple[Example, ...],
    saved: Path,
) -> Product:
    from pipelines.retrain.lora import fit

    def tell(step: int, loss: float) -> None:
        session.tracking.log_metrics(stage.run_id, {"train_loss": loss}, step=step)
        advance(1)

    tokenizer = load_tokenizer(base.folder)
    parts = divide(examples, holdout_percent=recipe.holdout_percent, seed=recipe.seed)
    train, holdout = (tokenize(tokenizer, part, length=recipe.sequence_length) for part in parts)
    if not train or not holdout:
        message = (
            f"Nothing is left to {'train on' if not train else 'measure by'}: no answer begins within the recipe's "
            f"sequence_length of {recipe.sequence_length} tokens. Raise it, or give more or shorter examples."
        )
        raise BadInput(message)
    steps = recipe.steps(len(train))
    with (
        hushed_library("Training failed"),
        session.announcer.bar("training", total=steps) as advance,
    ):
        done = fit(
            base.folder,
            folder,
            train=train,
            holdout=holdout,
            recipe=recipe,
            saved=saved,
            on_step=tell,
        )
    make_canonical(folder / "model", base=base.folder)
    check_checkpoint(folder / "model", where="the merged model")
    (folder / _LOSSES).write_text(_as_csv(done.losses))
    return Product(
        metrics={
            "holdout_loss_before": done.holdout_before,
            "holdout_loss": done.holdout_after,
            "steps": len(done.losses),
            "trained_parameters": done.trained_parameters,
            "train_sequences": len(train),
            "holdout_sequences": len(holdout),
        },
        reports=(_LOSSES, *_ADAPTER),
    )


def _as_csv(losses: tuple[float, ...]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "train_loss"))
    writer.writerows(enumerate(losses))
    return text.getvalue()


def _read_losses(file: Path) -> list[tuple[int, float]]:
    with file.open(newline="") as lines:
        return [(int(row["step"]), float(row["train_loss"])) for row in csv.DictReader(lines)]


def find_parent(session: Session, name: str, text: str) -> ModelVersion:
    """The version of `name` that `text` (a number or an alias) names.

    Raises:
        NotFound: there is none.
    """
    number, alias = parse_parent(text)
    if number is None:
        number = session.registry.aliases(name).get(alias or "")
    if number is None:
        message = f"{name} has no {alias}. Release and promote a first version, or name one with -P parent=NUMBER."
        raise NotFound(message)
    return session.registry.version(name, number)


def ask_for(session: Session, name: str, version: str) -> str:
    """Sets the alias `challenger` on `version`, unless another version has it; what to tell people."""
    standing = session.registry.aliases(name).get(_CHALLENGER)
    if standing not in {None, version}:
        return (
            f"{name} v{version} may be promoted, but v{standing} is {_CHALLENGER} and is not pushed aside. "
            f"Once that is decided: `shipway promote ENDPOINT {version}`"
        )
    move = MoveAlias(alias=_CHALLENGER, version=version, was=standing or "")
    session.registry.write(name, move)
    return f"{name} v{version} is {_CHALLENGER} now"


def tell_made(session: Session, made: ModelVersion) -> None:
    """That there is nothing to do, for `made` is what would come of it; on the run, too."""
    session.tracking.set_tags(
        session.run_id, {VERSION_TAG: made.version, REUSED_TAG: made.run_id or ""}
    )
    verdict = "" if isinstance(check_gate(made), Release) else ", which may not be promoted"
    session.announcer.say(
        "retrain",
        f"nothing new: {made.model} v{made.version}{verdict} was trained on these data already. "
        "New data make a new version; -P fresh=true trains on these again",
    )


def main(  # noqa: PLR0913, PLR0917 - one argument for each option
    name: Annotated[str, typer.Option(help="The registered model.")],
    data: Annotated[
        str, typer.Option(help="JSON Lines of chats or texts: a file, or an s3:// folder with one.")
    ],
    recipe: Annotated[Path, typer.Option(help="How the result is quantized; see recipes/.")],
    adapter: Annotated[Path, typer.Option(help="How it is trained; see recipes/adapters/.")],
    parent: Annotated[str, typer.Option(help="Version or alias to begin from.")] = "champion",
    base: Annotated[
        str, typer.Option(help="Its unquantized base, where the version does not say.")
    ] = "",
    digest: Annotated[str, typer.Option(help="What the data must have, sha256:...")] = "",
    evaluation_data: Annotated[
        str, typer.Option(help="Folder of texts and tasks; demo data if empty.")
    ] = "",
    margins: MarginsFile = "",
    engine: Annotated[
        ServingEngine, typer.Option(help="What will serve it.")
    ] = ServingEngine.TRANSFORMERS,
    set_challenger: Annotated[
        Switch, typer.Option(help="Ask for its rollout once its gate has passed.")
    ] = Switch.FALSE,
    fresh: Annotated[Switch, typer.Option(help="Do every stage again.")] = Switch.FALSE,
) -> None:
    """Train a version on new data and make a new version of it."""
    allowed = read_margins(margins)
    with Session.open("retrain", fresh=fresh is Switch.TRUE, is_chain=True) as session:
        check_name(name)
        training = read_adapter(adapter)
        examples, data_digest = read_data(fetch_data(session, data), where=data, digest=digest)
        texts = DataFolder.at(Path(evaluation_data)) if evaluation_data else demo_data(session.home)
        parsed = pin_recipe(read_recipe(recipe), texts)
        check_served(parsed, engine)
        before = find_parent(session, name, parent)
        wanted = Wanted(
            parent=before,
            is_whatever_serves=parse_parent(parent)[0] is None,
            data=data_digest,
            adapter=training.model_dump_json(),
            recipe=parsed.model_dump_json(),
            margins=allowed,
            evaluation=evaluation_of(read_measures(texts)),
        )
        if fresh is Switch.FALSE and (made := find_made(session.registry.versions(name), wanted)):
            tell_made(session, made)
            return
        learner = fetch_base(session, before, named=base)
        merged, stored = retrain(
            session,
            parent=before,
            base=learner,
            recipe=training,
            data=data,
            data_digest=data_digest,
            examples=examples,
        )
        known = session.origins[learner.digest]
        licence = known.get("licence") or before.tags.get(LICENCE_TAG, "")
        session.origins[merged.digest] = {
            "source": stored,
            "licence": licence,
            "base_model": known.get("base_model") or known["source"],
        }
        number = make_version(
            session,
            name=name,
            base=merged,
            recipe=parsed,
            data=texts,
            margins=allowed,
            lineage={
                SOURCE_TAG: stored,
                PARENT_TAG: f"models:/{before.model}/{before.version}",
                TRAINING_DATA_TAG: json.dumps({"address": data, "digest": data_digest}),
                ADAPTER_TAG: wanted.adapter,
            },
        )
        told = f"{name} v{number} may be promoted: `shipway promote ENDPOINT {number}`"
        if set_challenger is Switch.TRUE:
            told = ask_for(session, name, number)
        session.announcer.say("retrain", told)


if __name__ == "__main__":
    run_entry_point(main, reads_sources=True)
