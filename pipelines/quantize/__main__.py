"""`mlflow run . -e quantize -P model=DIR -P recipe=FILE`: a checkpoint becomes a smaller one in a work folder.

Recipe and model are checked against each other before any library is loaded.
"""

import csv
import shutil
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer

from pipelines.checkpoint import block_in_features, check_weights, read_config
from pipelines.datasets import DataFolder, demo_data
from pipelines.declared import read_declared
from pipelines.finite import check_numbers
from pipelines.loading import has_gpu, load_tokenizer
from pipelines.progress import Announcer, hushed_library
from pipelines.quantize.calibration import cut_windows, read_texts
from pipelines.quantize.canonical import make_canonical
from pipelines.quantize.recipes import (
    GptqRecipe,
    Int8Recipe,
    Method,
    Nf4Recipe,
    NoRecipe,
    Recipe,
    check_fits,
    parse_recipe,
    pin_calibration,
)
from pipelines.quantize.served_by import check_format, format_facts
from pipelines.session import Model, Session, Switch, run_entry_point
from pipelines.workbench import Product, code_of
from registry.digests import digest_file
from registry.errors import RecipeInvalid, SourceInvalid

_LIBRARIES = (
    "torch", "transformers", "gptqmodel", "optimum", "torchao", "bitsandbytes", "safetensors",
)  # fmt: skip
_LOSSES = "losses.csv"


def quantize(session: Session, *, model: Model, recipe: Recipe, data: DataFolder) -> Model:
    """The checkpoint that `recipe` makes of `model`; `model` itself for the recipe `none`.

    Raises:
        RecipeInvalid: the recipe cannot work for this model or these texts.
        StageFailed: the library failed, or the disk is full.
    """
    with session.stage("quantize", str(recipe)) as stage:
        inputs: dict[str, tuple[str, str]] = {"model": (str(model.folder), model.digest)}
        recipe = pin_recipe(recipe, data)
        if isinstance(recipe, GptqRecipe):
            inputs["calibration"] = (str(data.calibration), recipe.calibration or "")
        stage.log_params({f"recipe.{key}": value for key, value in recipe.model_dump().items()})
        made = model
        if not isinstance(recipe, NoRecipe):
            _check(recipe, model)
            finished = stage.do(
                {
                    "model": model.digest,
                    "recipe": recipe.model_dump(mode="json"),
                    "device": "cuda" if has_gpu() else "cpu",
                    "code": code_of(__file__, _LIBRARIES),
                },
                lambda folder: _make(
                    folder, model=model, recipe=recipe, data=data, announcer=session.announcer
                ),
            )
            made = Model(folder=finished.folder / "model", manifest=finished.files_of("model"))
        config = read_config(made.folder, where=str(made.folder))
        check_format(recipe, config, where=str(made.folder))
        stage.set_tags(format_facts(config))
        stage.log_inputs(inputs)
        stage.log_metrics(
            {
                "size_bytes": made.manifest.size_bytes,
                "size_ratio": made.manifest.size_bytes / model.manifest.size_bytes,
            }
        )
        stage.hand_over(made)
        session.announcer.say("quantize", f"{model.size_mib:.1f} MiB -> {made.size_mib:.1f} MiB")
    return made


def pin_recipe(recipe: Recipe, data: DataFolder) -> Recipe:
    """The recipe with the digest of the calibration texts in `data`, where it uses any.

    Raises:
        RecipeInvalid: it asks for other texts, or they cannot be read.
    """
    if not isinstance(recipe, GptqRecipe):
        return recipe
    if not data.calibration.is_file():
        read_texts(data.calibration)
    return pin_calibration(recipe, digest_file(data.calibration))


def read_recipe(file: Path) -> Recipe:
    """The recipe in `file`.

    Raises:
        RecipeInvalid: it is not there or cannot be used.
    """
    what = f"The recipe {file}"
    text = read_declared(file, what=what, see="recipes/ for examples", refused=RecipeInvalid)
    return parse_recipe(text, where=str(file))


def _check(recipe: Recipe, model: Model) -> None:
    where = str(model.folder)
    if "quantization_config" in read_config(model.folder, where=where):
        message = f"{where} is quantized already. Give the unquantized model, or the recipe `method: none`."
        raise SourceInvalid(message)
    check_weights(model.folder, where=where)
    check_fits(recipe, block_in_features(model.folder), where=where)


def _make(
    folder: Path, *, model: Model, recipe: Recipe, data: DataFolder, announcer: Announcer
) -> Product:
    check_numbers(model.folder, where=str(model.folder))
    out, scratch = folder / "model", folder / "scratch"
    scratch.mkdir()
    losses: tuple[tuple[str, float], ...] = ()
    with hushed_library(f"{recipe.method} failed"):
        losses = _run_method(out, scratch, model, recipe, data, announcer)
    shutil.rmtree(scratch)
    make_canonical(out, base=model.folder)
    config = read_config(out, where=str(out))
    check_format(recipe, config, where=str(out))
    metrics: dict[str, float] = {}
    if losses:
        (folder / _LOSSES).write_text(_as_csv(losses))
        values = [loss for _, loss in losses]
        metrics = {"loss_mean": sum(values) / len(values), "loss_max": max(values)}
    return Product(
        facts=format_facts(config), metrics=metrics, reports=(_LOSSES,) if losses else ()
    )


def _run_method(
    out: Path, scratch: Path, model: Model, recipe: Recipe, data: DataFolder, announcer: Announcer
) -> tuple[tuple[str, float], ...]:
    """Imports the method's library and has it write `out`."""
    if isinstance(recipe, Int8Recipe):
        from pipelines.quantize.methods import int8

        int8.quantize(model.folder, out)
        return ()
    if isinstance(recipe, Nf4Recipe):
        from pipelines.quantize.methods import nf4

        nf4.quantize(model.folder, out)
        return ()
    if isinstance(recipe, NoRecipe):
        return ()
    windows = cut_windows(load_tokenizer(model.folder), read_texts(data.calibration), recipe)
    pin_recipe(recipe, data)  # what was read is what the recipe names
    if recipe.method is Method.GPTQ_OPTIMUM:
        from pipelines.quantize.methods import gptq_optimum

        gptq_optimum.quantize(model.folder, out, recipe=recipe, windows=windows)
        return ()
    from pipelines.quantize.methods import gptq

    blocks = int(read_config(model.folder, where=str(model.folder)).get("num_hidden_layers", 1))
    with announcer.bar("gptq", total=blocks) as advance:
        return gptq.quantize(
            model.folder, out, recipe=recipe, windows=windows, scratch=scratch, on_block=advance
        )


def _as_csv(losses: tuple[tuple[str, float], ...]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "loss"))
    writer.writerows(losses)
    return text.getvalue()


def main(
    model: Annotated[Path, typer.Option(help="The unquantized checkpoint's folder.")],
    recipe: Annotated[Path, typer.Option(help="A recipe file; see recipes/.")],
    data: Annotated[
        str, typer.Option(help="Folder with calibration.jsonl; demo data if empty.")
    ] = "",
    fresh: Annotated[Switch, typer.Option(help="Do it again even if it is done.")] = Switch.FALSE,
) -> None:
    """Quantize a checkpoint by a recipe."""
    with Session.open("quantize", fresh=fresh is Switch.TRUE) as session:
        parsed = read_recipe(recipe)
        texts = DataFolder.at(Path(data)) if data else demo_data(session.home)
        made = quantize(session, model=Model.at(model), recipe=parsed, data=texts)
        session.announcer.say("quantize", f"{made.folder} {made.digest}")


if __name__ == "__main__":
    run_entry_point(main)
