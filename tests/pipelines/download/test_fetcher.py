"""What is known of each source before and after it is fetched, against the real servers."""

from pathlib import Path

import pytest

from pipelines.download.fetcher import Fetcher, Found
from pipelines.download.hub import Hub
from pipelines.download.sources import parse_source
from pipelines.progress import Announcer
from registry.digests import describe_folder, digest_file
from registry.errors import IntegrityError, NotFound, SourceInvalid
from registry.promotion import MoveAlias
from registry.release import DIGEST_TAG


@pytest.fixture
def fetcher(servers) -> Fetcher:
    return Fetcher(
        servers.store, servers.registry, servers.tracking, lambda: servers.store._client, Hub()
    )


@pytest.fixture
def find(fetcher):
    return lambda text: fetcher.find(parse_source(str(text)))


def brought(found: Found, into: Path) -> str:
    """The digest of what arrives."""
    return describe_folder(found.bring(into, Announcer())).digest


@pytest.mark.real
def test_a_folder_is_known_by_its_bytes_and_stays_where_it_is(find, tiny_model, tmp_path) -> None:
    found = find(tiny_model)
    assert found.digest == describe_folder(tiny_model).digest
    assert found.bring(tmp_path, Announcer()) == tiny_model


@pytest.mark.real
def test_a_file_is_a_source_only_if_it_is_gguf(find, tmp_path) -> None:
    for name, says in (
        ("a.GGUF", None),
        ("a.safetensors", "is one file. Give the folder"),
        ("a.bin", "pickle"),
        ("a.txt", "a .gguf file, or an archive"),
    ):
        file = tmp_path / name
        file.write_bytes(b"GGUF")
        if says is None:
            assert find(file).digest == digest_file(file)
        else:
            with pytest.raises(SourceInvalid, match=says):
                find(file)


@pytest.mark.real
def test_an_artifact_of_ours_is_known_by_its_digest_and_verified(
    find, servers, tiny_model, tmp_path
) -> None:
    stored = servers.store.put(tiny_model)
    found = find(stored.source)
    assert found.digest == describe_folder(tiny_model).digest
    assert brought(found, tmp_path / "in") == found.digest


@pytest.mark.real
def test_a_folder_of_somebody_elses_in_s3_is_known_by_its_listing(
    find, servers, tiny_model, tmp_path
) -> None:
    def upload(name: str, content: bytes) -> None:
        servers.store._client.put_object(Bucket="shipway", Key=f"theirs/model/{name}", Body=content)

    for file in tiny_model.iterdir():
        upload(file.name, file.read_bytes())
    found = find("s3://shipway/theirs/model/")
    assert found.digest is None
    assert brought(found, tmp_path / "in") == describe_folder(tiny_model).digest
    assert find("s3://shipway/theirs/model").identity == found.identity
    upload("config.json", b"{}")
    assert find("s3://shipway/theirs/model").identity != found.identity


@pytest.mark.real
def test_a_version_is_found_by_number_and_by_alias(find, servers, tiny_model, tmp_path) -> None:
    stored = servers.store.put(tiny_model)
    digest = stored.manifest.digest
    number, _ = servers.registry.register(
        "source-model", source=stored.source, run_id=None, tags={DIGEST_TAG: digest}
    )
    servers.registry.write("source-model", MoveAlias(alias="champion", version=number))
    by_number, by_alias = (
        find(f"models:/source-model/{number}"),
        find("models:/source-model@champion"),
    )
    assert by_number.digest == by_alias.digest == digest
    assert brought(by_alias, tmp_path / "in") == digest
    with pytest.raises(NotFound, match="has no alias 'challenger'"):
        find("models:/source-model@challenger")
    with pytest.raises(NotFound):
        find("models:/source-model/99")


@pytest.mark.real
def test_a_version_whose_bytes_are_not_those_of_its_tag_is_not_brought(
    find, servers, tiny_model, tmp_path
) -> None:
    stored = servers.store.put(tiny_model)
    lie = {DIGEST_TAG: "sha256:" + "0" * 64}
    number, _ = servers.registry.register(
        "lying-model", source=stored.source, run_id=None, tags=lie
    )
    with pytest.raises(IntegrityError, match="It is not served"):
        brought(find(f"models:/lying-model/{number}"), tmp_path / "in")


@pytest.mark.real
def test_a_version_that_lies_elsewhere_is_refused(find, servers) -> None:
    number, _ = servers.registry.register("far-model", source="gs://bucket/m", run_id=None, tags={})
    with pytest.raises(SourceInvalid, match="cannot be fetched from here"):
        find(f"models:/far-model/{number}")


@pytest.mark.real
def test_one_object_of_s3_is_a_source_if_it_is_gguf(find, servers, tmp_path) -> None:
    def upload(name: str) -> str:
        servers.store._client.put_object(Bucket="shipway", Key=f"one/{name}", Body=b"GGUF")
        return f"s3://shipway/one/{name}"

    found = find(upload("a.gguf"))
    arrived = found.bring(tmp_path / "in", Announcer())
    assert (arrived.name, arrived.read_bytes()) == ("a.gguf", b"GGUF")
    with pytest.raises(SourceInvalid, match="is one file"):
        find(upload("a.gguf.txt"))


@pytest.mark.real
def test_a_folder_that_a_run_logged_is_a_source(find, servers, tiny_model, tmp_path) -> None:
    """The stack's server hands artifacts out itself; the run's id is the revision."""
    experiment = servers.tracking.experiment("runs-source")
    run_id = servers.tracking.create_run(experiment_id=experiment, name="train", tags={})
    servers.client.log_artifacts(run_id, str(tiny_model), "out/model")
    found = find(f"runs:/{run_id}/out/model")
    assert found.facts["revision"] == run_id
    assert brought(found, tmp_path / "in") == describe_folder(tiny_model).digest
    with pytest.raises(NotFound, match="no files at runs:"):
        find(f"runs:/{run_id}/nothing")
