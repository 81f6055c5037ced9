"""Every way to name a model, and what is known of it before and after it is fetched."""

import http.server
import json
import shutil
import threading
from pathlib import Path

import httpx2
import pytest

from pipelines.download.sources import (
    Fetcher,
    FileSource,
    Found,
    HubSource,
    RegistrySource,
    S3Source,
    _hub_answering,
    parse_source,
)
from registry.digests import describe_folder, digest_file
from registry.errors import IntegrityError, NotFound, SourceInvalid, Unavailable
from registry.promotion import MoveAlias
from registry.release import DIGEST_TAG

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("some/folder", FileSource(path=Path("some/folder"))),
        ("~/model", FileSource(path=Path.home() / "model")),
        ("file:///data/model", FileSource(path=Path("/data/model"))),
        ("s3://bucket/a/b/", S3Source(address="s3://bucket/a/b")),
        ("models:/chat/7", RegistrySource(model="chat", version="7", alias=None)),
        ("models:/chat@champion", RegistrySource(model="chat", version=None, alias="champion")),
        (
            f"hub://org/name@{COMMIT}",
            HubSource(repository="org/name", commit=COMMIT, file=None),
        ),
        (
            f"hub://org/name@{COMMIT}/q4/a.gguf",
            HubSource(repository="org/name", commit=COMMIT, file="q4/a.gguf"),
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
        ("hub://org/name", "does not name one commit"),
        ("hub://org/name@main", "does not name one commit"),
        (f"hub://name@{COMMIT}", "does not name one commit"),
        (f"hub://org/name@{COMMIT[:39]}", "does not name one commit"),
        ("package://no_such_package/a.gguf", "there is no installed Python package"),
        ("package://os.path/a.gguf", "there is no installed Python package"),
        ("package://../a.gguf", "there is no installed Python package"),
        ("package://json/", "names no file inside the package"),
        ("package://json/../os.py", "names no file inside the package"),
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
    assert parse_source("package://shipped_model/a.gguf") == FileSource(path=package / "a.gguf")


@pytest.fixture
def fetcher(servers) -> Fetcher:
    return Fetcher(servers.store, servers.registry, hub=None)


@pytest.fixture
def find(fetcher):
    return lambda text: fetcher.find(parse_source(str(text)), on_bytes=lambda _: None)


def brought(found: Found, into: Path) -> str:
    """The digest of what arrives."""
    into.mkdir()
    return describe_folder(found.bring(into)).digest


@pytest.mark.real
def test_a_folder_is_known_by_its_bytes_and_stays_where_it_is(find, tiny_model, tmp_path) -> None:
    found = find(tiny_model)
    assert found.digest == describe_folder(tiny_model).digest
    assert found.bring(tmp_path) == tiny_model


@pytest.mark.real
def test_a_file_is_a_source_only_if_it_is_gguf(find, tmp_path) -> None:
    for name, says in (
        ("a.GGUF", None),
        ("a.safetensors", "is one file. Give the folder"),
        ("a.bin", "pickle"),
        ("a.txt", "or a .gguf file"),
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


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as a download needs: one repository at one commit."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        self.asked.append(self.path)
        path, file = self.path.partition("?")[0], ""
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        names = [p.relative_to(self.folder).as_posix() for p in files]
        if path == f"/api/models/org/name/revision/{COMMIT}":
            info = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            body = json.dumps(info).encode()
        elif path == f"/api/models/org/name/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": n, "oid": n, "size": p.stat().st_size}
                for n, p in zip(names, files, strict=True)
            ]
            body = json.dumps(tree).encode()
        elif (file := path.removeprefix(f"/org/name/resolve/{COMMIT}/")) != path:
            body = (self.folder / file).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(file)):x}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """It keeps quiet."""


@pytest.fixture
def hub(tiny_copy):
    """The address of a hub that has the tiny model, and its handler."""
    handler = type("OneHub", (Hub,), {"folder": tiny_copy("hub"), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


@pytest.mark.real
def test_a_model_comes_from_a_hub_without_what_could_run(command, hub, tmp_path) -> None:
    address, handler = hub
    expected = describe_folder(handler.folder).digest
    (handler.folder / "modeling_evil.py").write_text("raise SystemExit('it ran')")
    (handler.folder / "pytorch_model.bin").write_bytes(b"pickle")
    shutil.copytree(handler.folder, handler.folder / "onnx")
    result = command.run(
        "pipelines.download", "--source", f"hub://org/name@{COMMIT}",
        HF_ENDPOINT=address, HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    folder, digest = result.stdout.splitlines()[-1].split()[1:]
    assert digest == expected == describe_folder(Path(folder)).digest
    assert not [p for p in handler.asked if p.endswith((".py", ".bin")) or "onnx" in p]


@pytest.mark.real
@pytest.mark.parametrize(
    ("source", "says", "code"),
    [
        (f"hub://org/other@{COMMIT}", "error: The hub refused", 2),
        (f"hub://org/name@{COMMIT}/no.gguf", "has no file 'no.gguf'", 2),
    ],
)
def test_what_the_hub_does_not_have_is_told(command, hub, tmp_path, source, says, code) -> None:
    result = command.run(
        "pipelines.download", "--source", source,
        HF_ENDPOINT=hub[0], HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_hub_that_does_not_answer_may_work_later() -> None:
    """The client itself tries for half a minute, so its last word is put in here."""
    with pytest.raises(Unavailable, match="Look at the network, then run again"):  # noqa: SIM117
        with _hub_answering("hub://org/name"):
            raise httpx2.ConnectError("refused")
