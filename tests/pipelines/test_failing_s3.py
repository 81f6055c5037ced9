"""A source and a version in an S3 that fails half-way: a clear error, and the next run ends well; never half a version."""

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.download.__main__ import main as download
from pipelines.evaluate.speed import Performance
from pipelines.evaluate.stage import Evaluation
from pipelines.version import main as version
from registry import transfer
from registry.digests import describe_folder
from registry.gate import Margins, decide
from registry.promotion import check_gate
from registry.release import DIGEST_TAG, Release, parse_digest
from tests.builders import a_scorecard
from tests.pipelines.conftest import Command, Result
from tests.registry.faulty_s3 import Asked, Cut, FaultyS3, Refusal, faulty_s3
from tests.registry.test_artifact_store import Bucket, contents
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.real

EXPIRED = Refusal(status=400, code="ExpiredToken")
REFUSED = Refusal(status=403, code="AccessDenied")
HALF = 100_000
"""Of the weights' bytes."""


class Chain:
    """`download` of a folder in S3 whose weights are nowhere else, then `version`, through the proxy."""

    def __init__(
        self, call: Callable[..., Result], servers: Any, proxy: FaultyS3, tmp_path: Path
    ) -> None:
        self._call, self._servers, self._proxy = call, servers, proxy
        self._work = tmp_path / "home" / "work"
        self.name = tmp_path.name
        self.source = f"s3://shipway/theirs/{self.name}"
        folder = write_tiny_model(tmp_path / "source", seed=secrets.randbits(32))
        self.content = contents(folder)
        for name, content in self.content.items():
            Bucket(servers.store, self.source).write(name, content)
        self._file = tmp_path / "evaluation.json"

    def download(self) -> Result:
        return self._run(download, "--source", self.source)

    def version(self) -> Result:
        [model] = self._work.glob("download-*/model")
        digest, card = describe_folder(model).digest, a_scorecard()
        gate = decide(card, base=card, champion=None, margins=Margins())
        fast = Performance(machine="any", numbers={})
        told = Evaluation(model=digest, base=digest, scorecard=card, gate=gate, performance=fast)
        self._file.write_text(told.to_json())
        words = ("--name", self.name, "--model", str(model), "--evaluation", str(self._file))
        return self._run(version, *words)

    def _run(self, main: Callable[..., None], *words: str) -> Result:
        return self._call(main, *words, AWS_ENDPOINT_URL_S3=self._proxy.url)

    def assert_whole(self, into: Path) -> None:
        """The only version could be promoted, and its bytes in S3 are those of its digest."""
        [only] = self._servers.registry.versions(self.name)
        assert isinstance(check_gate(only), Release)
        digest = parse_digest(only.tags[DIGEST_TAG])
        self._servers.store.check(only.source, digest)
        fetched = self._servers.store.fetch(only.source, digest, into=into)
        assert describe_folder(fetched).digest == digest
        assert contents(fetched)["model.safetensors"] == self.content["model.safetensors"]


@pytest.fixture
def proxy(servers: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setattr(transfer, "_PAUSES_S", (0.01, 0.01))
    with faulty_s3(servers.environment["AWS_ENDPOINT_URL_S3"]) as running:
        yield running


@pytest.fixture
def chain(call: Any, servers: Any, proxy: FaultyS3, tmp_path: Path) -> Chain:
    return Chain(call, servers, proxy, tmp_path)


@pytest.mark.promise("every byte arrives, none twice")
def test_an_s3_that_is_busy_every_third_time_and_cuts_connections_slows_it_and_no_more(
    chain: Chain, proxy: FaultyS3, tmp_path: Path
) -> None:
    count = itertools.count(1)

    def fault(asked: Asked) -> Refusal | Cut | None:
        if next(count) % 3 == 0:
            return Refusal(status=503, code="SlowDown")
        return Cut(after_bytes=HALF) if asked.is_fetch else None

    proxy.fault = fault
    for result in (chain.download(), chain.version()):
        assert result.returncode == 0, result.stderr
    assert HALF in proxy.given
    assert sum(proxy.given) == sum(map(len, chain.content.values())), "no byte came twice"
    chain.assert_whole(tmp_path / "into")


def assert_told(result: Result, said: str) -> None:
    assert result.returncode == 1
    assert result.stderr.startswith("error: S3 refused")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


REFUSALS = pytest.mark.parametrize(
    ("refusal", "said"),
    [(EXPIRED, "the credentials have expired"), (REFUSED, "Look at the credentials")],
)


@pytest.mark.promise("one clear error, and the next run goes on")
@REFUSALS
def test_a_download_whose_keys_end_half_way_is_told_and_goes_on_there(
    chain: Chain, proxy: FaultyS3, command: Command, refusal: Refusal, said: str
) -> None:
    count, lock = itertools.count(), threading.Lock()

    def fault(asked: Asked) -> Refusal | None:
        with lock:
            return refusal if asked.is_fetch and next(count) >= 3 else None

    proxy.fault = fault
    assert_told(chain.download(), said)
    assert [run["status"] for run in command.runs()] == ["FAILED"]
    assert command.work() == []
    assert proxy.given

    proxy.fault = lambda _: None
    again = chain.download()
    assert again.returncode == 0, again.stderr
    assert sum(proxy.given) == sum(map(len, chain.content.values())), "no byte came twice"


@REFUSALS
@pytest.mark.parametrize("after", [0, 2, 99], ids=["at-once", "half-way", "manifest"])
def test_a_version_whose_upload_is_refused_is_none_and_the_next_run_makes_it(  # noqa: PLR0917 - fixtures
    chain: Chain, proxy: FaultyS3, command: Command, servers: Any, tmp_path: Path,
    after: int, refusal: Refusal, said: str,
) -> None:  # fmt: skip
    assert chain.download().returncode == 0
    count, lock, over = itertools.count(), threading.Lock(), threading.Event()

    def fault(asked: Asked) -> Refusal | None:
        with lock:
            if asked.method == "PUT" and (
                next(count) >= after or asked.path.endswith("shipway-manifest.json")
            ):
                over.set()
        # An answer to HEAD has no body, and so names no reason.
        return refusal if over.is_set() and asked.method != "HEAD" else None

    proxy.fault = fault
    assert_told(chain.version(), said)
    assert chain.name not in servers.registry.models()
    assert command.runs()[0]["status"] == "FAILED"
    before = proxy.sent()

    proxy.fault = lambda _: None
    again = chain.version()
    assert again.returncode == 0, again.stderr
    weights = len(chain.content["model.safetensors"])
    assert (before in {0, weights}, proxy.sent()) == (True, weights), "no weight was sent twice"
    chain.assert_whole(tmp_path / "into")
