"""A model from a hub: pinned, compared, without what could run, and never fetched twice."""

import shutil
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from pipelines.download.hub import _answering
from registry.digests import describe_folder
from registry.errors import SourceInvalid, Unavailable
from registry.release import BASE_TAG, DIGEST_TAG, SOURCE_TAG
from tests.builders import a_digest
from tests.pipelines.download.fake_hub import COMMIT, FakeHub, serve_hub

CARD = "---\nlicense: apache-2.0\nbase_model: org/base\n---\n# A model\n"


@pytest.fixture
def hub(tiny_copy):
    with serve_hub(FakeHub(folder=tiny_copy("hub"))) as serving:
        yield serving


@pytest.fixture
def fetch(command, hub, tmp_path):
    def run(source: str = f"hub://org/name@{COMMIT}", *more: str, **extra: str):
        return command.run(
            "pipelines.download", "--source", source, *more,
            HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "hf"), **extra,
        )  # fmt: skip

    return run


@pytest.mark.real
def test_a_model_comes_from_a_hub_with_its_card_and_without_what_could_run(
    fetch, hub, command
) -> None:
    expected = describe_folder(hub.folder).digest
    (hub.folder / "modeling_evil.py").write_text("raise SystemExit('it ran')")
    (hub.folder / "tokenizer_evil.py").write_text("raise SystemExit('it ran')")
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    shutil.copytree(hub.folder, hub.folder / "onnx")
    (hub.folder / "README.md").write_text(CARD)
    (hub.folder / "LICENSE").write_text("Apache")
    result = fetch()
    assert result.returncode == 0, result.stderr
    folder, digest = result.stdout.splitlines()[-1].split()[1:]
    assert digest == expected == describe_folder(Path(folder)).digest
    assert not [p for p in hub.asked if p.endswith((".py", ".bin")) or "onnx" in p]
    assert "its licence is apache-2.0" in result.stdout
    run = command.tracking._client.get_run(command.runs()[0]["run_id"])
    assert run.data.params["source.licence"] == "apache-2.0"
    assert run.data.params["source.base_model"] == "org/base"
    assert run.data.params["source.revision"] == COMMIT
    artifacts = {item.path for item in command.tracking._client.list_artifacts(run.info.run_id)}
    assert artifacts == {"README.md", "LICENSE"}
    assert not (command.home / "incoming" / "parts").exists()


@pytest.mark.real
def test_a_branch_is_pinned_to_its_commit_and_a_pinned_one_needs_no_hub_again(fetch, hub) -> None:
    first = fetch("hub://org/name@main")
    assert first.returncode == 0, first.stderr
    assert f"that is hub://org/name@{COMMIT}" in first.stdout
    asked = len(hub.asked)
    again = fetch()
    assert again.returncode == 0, again.stderr
    assert "reused from an earlier run" in again.stdout
    assert len(hub.asked) == asked
    other = fetch(f"hub://org/name@{COMMIT}", "--digest", "sha256:" + "0" * 64)
    assert other.returncode == 1
    assert "was asked for" in other.stderr


@pytest.mark.real
def test_a_token_that_expires_half_way_is_told_and_the_next_run_goes_on(
    fetch, hub, command
) -> None:
    """Small files first, so that the refusal falls between two of them."""
    size = sum(f.stat().st_size for f in hub.folder.iterdir())
    hub.refuse_after = 1
    first = fetch()
    assert first.returncode == 2
    assert "The hub refused" in first.stderr
    assert "What has arrived is kept" in first.stderr
    assert "Traceback" not in first.stderr
    sent = sum(hub.sent.values())
    assert 0 < sent < size
    hub.refuse_after = None
    again = fetch()
    assert again.returncode == 0, again.stderr
    assert sum(hub.sent.values()) == size
    assert not list((command.home / "incoming").iterdir())


@pytest.mark.real
def test_a_connection_that_is_cut_goes_on_at_the_byte_where_it_was(fetch, hub) -> None:
    name = "model.safetensors"
    hub.cut_after, hub.cuts = (hub.folder / name).stat().st_size // 3, 1
    result = fetch()
    assert result.returncode == 0, result.stderr
    assert hub.cuts == 0
    assert hub.sent[name] == (hub.folder / name).stat().st_size


@pytest.mark.real
def test_bytes_that_the_hub_did_not_promise_are_thrown_away(fetch, hub, command) -> None:
    hub.lie = True
    result = fetch()
    assert result.returncode == 1
    assert "are not those that the source promised" in result.stderr
    assert command.work() == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("source", "says", "code"),
    [
        (f"hub://org/other@{COMMIT}", "error: The hub refused", 2),
        ("hub://org/name@nothing", "error: The hub refused", 2),
        (f"hub://org/name@{COMMIT}/no.gguf", "has no file 'no.gguf'", 2),
    ],
)
def test_what_the_hub_does_not_have_is_told(fetch, source, says, code) -> None:
    result = fetch(source)
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.real
def test_a_repository_with_pickles_alone_is_refused_before_anything_is_fetched(fetch, hub) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    result = fetch()
    assert result.returncode == 2
    assert "safe_serialization=True" in result.stderr
    assert hub.sent == {}


def test_a_hub_that_does_not_answer_may_work_later() -> None:
    """The client itself tries for half a minute, so its last word is put in here."""
    with pytest.raises(Unavailable, match="Look at the network, then run again"):  # noqa: SIM117
        with _answering("hub://org/name"):
            raise httpx2.ConnectError("refused")


def test_the_signature_of_an_address_is_not_told() -> None:
    request = httpx2.Request("GET", "https://files.example/model?X-Signature=secret&Expires=1")
    answer = httpx2.Response(403, request=request)
    with pytest.raises(SourceInvalid) as refused, _answering("hub://org/name@abc"):
        raise HfHubHTTPError(f"403 Forbidden for url '{request.url}'", response=answer)
    assert "files.example/model" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.real
def test_a_base_that_only_a_versions_tag_names_is_asked_of_the_hub(
    command, servers, hub, recipe, tmp_path
) -> None:
    tags = {
        SOURCE_TAG: f"hub://org/name@{COMMIT}",
        BASE_TAG: a_digest("b"),
        DIGEST_TAG: a_digest("c"),
    }
    servers.registry.register("from-a-hub", source="s3://b/f", run_id=None, tags=tags)
    (tmp_path / "texts.jsonl").write_text('{"text": "a b"}\n{"text": "c d"}\n')
    (tmp_path / "lora.yaml").write_text("method: lora\n")
    result = command.run(
        "pipelines.retrain", "--name", "from-a-hub", "--parent", "1", "--recipe", str(recipe),
        "--data", str(tmp_path / "texts.jsonl"), "--adapter", str(tmp_path / "lora.yaml"),
        HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    assert f"hub://org/name@{COMMIT} has the digest sha256:" in result.stderr, result.stderr
    assert hub.asked
