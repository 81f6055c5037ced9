"""`mlflow run . -e download -P source=...`: a source becomes a plain checkpoint in a work folder, checked and named.

The checkpoint lies in the work folder's `model/`, its card and licence in `card/`. What can be named is in `sources`.
What comes from afar is collected below `incoming/` of the state folder first, where a later run goes on with it.
"""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from pipelines.checkpoint import check_checkpoint
from pipelines.download.archives import is_archive, unpack
from pipelines.download.card import CARD, read_card, take_card
from pipelines.download.fetcher import Fetcher, Found
from pipelines.download.gguf import convert_gguf, read_gguf_facts
from pipelines.download.hub import Hub
from pipelines.download.sources import parse_source
from pipelines.finite import check_numbers
from pipelines.progress import Announcer
from pipelines.quantize.auto_gptq import adopt
from pipelines.session import Model, Session, Switch, run_entry_point
from pipelines.workbench import Product, code_of, key_of
from registry.digests import describe_folder, digest_file
from registry.errors import IntegrityError, SourceInvalid
from registry.release import parse_digest

_LIBRARIES = ("transformers", "gguf", "safetensors")


def download(session: Session, *, source: str, digest: str = "") -> Model:
    """The checkpoint that `source` names, in a work folder.

    `digest`, where given, is what the source must have: a file's SHA-256, or a folder's digest as this stage prints.

    Raises:
        SourceInvalid: it is not there, or of a kind that is refused.
        IntegrityError: its bytes are not those of `digest`.
    """
    parsed = parse_source(source)
    promised = parse_digest(digest) if digest else None
    with session.stage("download", source) as stage:
        fetcher = Fetcher(
            session.store, session.registry, session.tracking, session.connect_s3, Hub()
        )
        found = fetcher.find(parsed)
        if found.address != source:
            session.announcer.say("download", f"that is {found.address}")
        _compare(source, promised, found.digest)
        incoming = session.home / "incoming" / key_of(found.identity)
        finished = stage.do(
            {"from": dict(found.identity), "code": code_of(__file__, _LIBRARIES)},
            lambda folder: _bring(
                found,
                folder,
                incoming,
                source=source,
                promised=promised,
                announcer=session.announcer,
            ),
        )
        facts = {**finished.product.facts, **found.facts, "source": found.address}
        _compare(source, promised, facts["source_digest"])
        model = Model(folder=finished.folder / "model", manifest=finished.files_of("model"))
        stage.log_inputs({"source": (found.address, facts["source_digest"])})
        stage.log_params({f"source.{name}": value for name, value in facts.items()})
        stage.hand_over(model)
        session.origins[model.digest] = facts
        _say_licence(session.announcer, facts)
    return model


def _say_licence(announcer: Announcer, facts: dict[str, str]) -> None:
    licence = facts.get("licence")
    announcer.say(
        "download", f"its licence is {licence}" if licence else "its card states no licence"
    )


def _bring(
    found: Found,
    folder: Path,
    incoming: Path,
    *,
    source: str,
    promised: str | None,
    announcer: Announcer,
) -> Product:
    here = found.bring(incoming, announcer)
    is_ours = here.is_relative_to(incoming)
    arrived = found.digest
    if arrived is None:
        arrived = digest_file(here) if here.is_file() else describe_folder(here).digest
        _compare(source, promised, arrived)
    facts = {**found.facts, "source": found.address, "source_digest": arrived}
    unpacked = folder / "unpacked"
    if here.is_file() and is_archive(here.name):
        unpacked.mkdir()
        here, is_ours = unpack(here, unpacked, where=source), True
    model, card = folder / "model", folder / CARD
    card.mkdir()
    gguf = _gguf_in(here, source)
    if gguf is not None:
        # Most of a minute on a small machine, of which transformers spends half on reading the header three times.
        announcer.say("download", f"{gguf.name} becomes a plain bf16 checkpoint")
        convert_gguf(gguf, model)
        facts |= read_gguf_facts(gguf)
        # The folder around one local file is anybody's; the folder that was fetched with it is its repository.
        beside = here if here.is_dir() else gguf.parent if is_ours else None
    else:
        check_checkpoint(here, where=source)
        shutil.copytree(here, model, copy_function=os.replace if is_ours else shutil.copy2)
        adopt(model, where=source)
        beside = model
    if beside is not None:
        take_card(beside, card, move=beside == model)
    _check(model, source, announcer)
    shutil.rmtree(unpacked, ignore_errors=True)
    shutil.rmtree(incoming, ignore_errors=True)
    return Product(
        facts={**facts, **read_card(card)},
        metrics={"size_bytes": describe_folder(model).size_bytes},
        reports=tuple(f"{CARD}/{file.name}" for file in sorted(card.iterdir())),
    )


def _check(model: Path, source: str, announcer: Announcer) -> None:
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    check_checkpoint(model, where=source)
    with announcer.bar("looking for NaN", total=size, unit="bytes") as advance:
        check_numbers(model, where=source, on_bytes=advance)


def _gguf_in(here: Path, source: str) -> Path | None:
    """The one GGUF file that `here` is or holds; None where it is a checkpoint folder."""
    if here.is_file():
        return here
    files = sorted(here.rglob("*.gguf"))
    if not files or any(here.rglob("*.safetensors")):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        message = f"{source} holds {len(files)} GGUF files ({names}). Name one of them."
        raise SourceInvalid(message)
    return files[0]


def _compare(source: str, promised: str | None, found: str | None) -> None:
    if promised is not None and found is not None and promised != found:
        message = (
            f"{source} has the digest {found}, but {promised} was asked for. "
            "Somebody changed the source, or the digest belongs to another one."
        )
        raise IntegrityError(message)


def main(
    source: Annotated[
        str, typer.Option(help="hub://, s3://, a path, models:/, runs:/ or package://.")
    ],
    digest: Annotated[str, typer.Option(help="What the source must have, sha256:...")] = "",
    fresh: Annotated[Switch, typer.Option(help="Do it again even if it is done.")] = Switch.FALSE,
) -> None:
    """Bring a model in as a plain safetensors checkpoint."""
    with Session.open("download", fresh=fresh is Switch.TRUE) as session:
        model = download(session, source=source, digest=digest)
        session.announcer.say("download", f"{model.folder} {model.digest}")


if __name__ == "__main__":
    run_entry_point(main)
