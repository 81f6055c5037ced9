"""Every way to name a model."""

from pathlib import Path

import pytest

from pipelines.download.sources import (
    FileSource,
    HubSource,
    RegistrySource,
    RunSource,
    S3Source,
    parse_source,
)
from registry.errors import SourceInvalid

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("some/folder", FileSource(path=Path("some/folder"), address="some/folder")),
        ("~/model", FileSource(path=Path.home() / "model", address="~/model")),
        ("file:///data/model", FileSource(path=Path("/data/model"), address="file:///data/model")),
        ("s3://bucket/a/b/", S3Source(address="s3://bucket/a/b")),
        ("models:/chat/7", RegistrySource(model="chat", version="7", alias=None)),
        ("models:/chat@champion", RegistrySource(model="chat", version=None, alias="champion")),
        (
            f"hub://org/name@{COMMIT}",
            HubSource(repository="org/name", revision=COMMIT, file=None),
        ),
        ("hub://org/name@main", HubSource(repository="org/name", revision="main", file=None)),
        ("runs:/0a1b/model/best", RunSource(run_id="0a1b", path="model/best")),
        (
            f"hub://org/name@{COMMIT}/q4/a.gguf",
            HubSource(repository="org/name", revision=COMMIT, file="q4/a.gguf"),
        ),
    ],
)
def test_a_source_is_what_its_address_says(text, source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no model source"),
        ("file://", "names no model source"),
        ("https://example.org/model", "names no model source"),
        ("models:/chat", "names no model source"),
        ("models:/chat/latest", "names no model source"),
        ("models:/a/b/7", "names no model source"),
        ("s3://bucket", "is no address of an S3 folder"),
        ("hub://org/name", "does not say which revision"),
        ("hub://org/name@", "does not say which revision"),
        (f"hub://name@{COMMIT}", "does not name a repository"),
        (f"hub:///name@{COMMIT}", "does not name a repository"),
        ("runs:/0a1b", "names no model source"),
        ("runs:/0a1b/../other", "names no model source"),
        ("package://no_such_package/a.gguf", "there is no installed Python package"),
        ("package://os.path/a.gguf", "there is no installed Python package"),
        ("package://../a.gguf", "there is no installed Python package"),
        ("package://json/", "names no file inside the package"),
        ("package://json/../os.py", "names no file inside the package"),
        ("package://__main__/a.gguf", "there is no installed Python package"),
        ("~nobody-of-that-name/model", "whom this machine does not know"),
        ("file://~nobody-of-that-name/model", "whom this machine does not know"),
        ("package://json/\0", "holds the character NUL"),
    ],
)
def test_an_address_that_names_nothing_is_refused(text, says) -> None:
    with pytest.raises(SourceInvalid, match=says):
        parse_source(text)


def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch) -> None:
    package = tmp_path / "shipped_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    (package / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert parse_source("package://shipped_model/a.gguf") == FileSource(
        path=package / "a.gguf", address="package://shipped_model/a.gguf"
    )
