"""A registry of a thousand models with ten versions each, written into MLflow's database by its own store in one go."""

import tempfile
from pathlib import Path

from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from registry.digests import describe_folder
from registry.release import DIGEST_TAG
from tests.builders import gate_tags

MODELS, VERSIONS = 1_000, 10
_NOW_MS = 1_790_000_000_000


def model_name(number: int) -> str:
    """Of the model with that number."""
    return f"model-{number:04d}"


def an_artifact() -> Path:
    """A folder with one small file, which every version names; the reader puts it into S3."""
    folder = Path(tempfile.mkdtemp(prefix="shipway-bench-"))
    (folder / "config.json").write_text("{}")
    return folder


def fill_mlflow(database: Path, artifact: Path, aliases: dict[str, range], *, bucket: str) -> None:
    """Writes models and versions; `aliases` says which models have version 1 under which alias."""
    digest = describe_folder(artifact).digest
    source = f"s3://{bucket}/models/{digest.removeprefix('sha256:')}"
    tags = {
        DIGEST_TAG: str(digest),
        **gate_tags(),
    }
    store = SqlAlchemyStore(f"sqlite:///{database}")
    with store.ManagedSessionMaker() as session:
        for number in range(MODELS):
            name = model_name(number)
            session.add(
                SqlRegisteredModel(name=name, creation_time=_NOW_MS, last_updated_time=_NOW_MS)
            )
        session.flush()
        for number in range(MODELS):
            name = model_name(number)
            for version in range(1, VERSIONS + 1):
                session.add(
                    SqlModelVersion(
                        name=name,
                        version=version,
                        source=source,
                        creation_time=_NOW_MS,
                        last_updated_time=_NOW_MS,
                        status="READY",
                        current_stage="None",
                    )
                )
                session.add_all(
                    SqlModelVersionTag(name=name, version=version, key=key, value=value)
                    for key, value in tags.items()
                )
        session.flush()
        session.add_all(
            SqlRegisteredModelAlias(name=model_name(number), alias=alias, version=1)
            for alias, numbers in aliases.items()
            for number in numbers
        )
    store.engine.dispose()
