"""`make bench`: the way to S3 and back, beside s5cmd and MLflow's own client: `python -m tests.bench.transfer`.

All send to one real S3 server on this machine, in turns, in one run: medians of the ratios of each round. Ours goes twice:
as the stage `version` does, which is given the digests that the files got as they were made (they are hashed once more while
they go, and compared); and from files of which nothing is known, which are read and hashed first. The others never hash what
they send as a whole. The last part sends a sparse folder to a stub that throws all away, for
its memory alone. `--tiny` tries the bench out.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import typer

from registry.artifact_store import ArtifactStore, connect_store
from registry.digests import describe_folder
from registry.settings import RegistrySettings
from tests.bench.figures import Figure, tell
from tests.registry.faulty_s3 import faulty_s3
from tests.servers import Servers, start_servers

_MIB = 1 << 20
_ROOT = Path(__file__).parents[2]
_S5CMD = Path(sys.executable).parent / "s5cmd"
_MAX_SECOND_BYTES, _MAX_SECOND_TIME = 0.01, 0.05
_MAX_OVER_S5CMD, _MIN_OVER_MLFLOW, _MAX_MEMORY_MIB = 1.0, 1.5, 1024
_FILES = 200
_AWAY_S = 0.02

_PUT = """
import re
import sys
from pathlib import Path
from registry.artifact_store import connect_store
from registry.settings import RegistrySettings
connect_store(RegistrySettings()).put(Path(sys.argv[1]))
# Not getrusage: what it says of a process begins with what its parent had when it was forked.
print(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def fill(path: Path, size: int) -> None:
    """Bytes that were nowhere before; a block of them again and again, for making them takes as long as sending."""
    block = os.urandom(min(size, 8 * _MIB))
    with path.open("wb") as file:
        for number in range(-(-size // len(block))):
            file.write(number.to_bytes(8, "big") + block[8 : min(len(block), size - file.tell())])


def seconds(act: Callable[[], object]) -> float:
    """How long `act` takes; what the disk is still writing is waited for before."""
    os.sync()
    began = time.monotonic()
    act()
    return time.monotonic() - began


def send(store: ArtifactStore, folder: Path, sizes: Mapping[str, int], *, is_known: bool) -> float:
    """How long files with new bytes take; with `is_known` their digests are there before."""
    for name, size in sizes.items():
        fill(folder / name, size)
    manifest = describe_folder(folder) if is_known else None
    return seconds(lambda: store.put(folder, manifest=manifest))


class Sent:
    """Counts the bytes of every request of a store's client."""

    def __init__(self, store: ArtifactStore) -> None:
        self.bytes = 0
        store._client.meta.events.register("before-send.s3", self._note)

    def _note(self, request: Any, **_: Any) -> None:
        self.bytes += (
            len(request.body)
            if isinstance(request.body, bytes)
            else int(request.headers.get("Content-Length", 0))
        )


def in_turns(number: int, *acts: Callable[[], float]) -> list[float]:
    """What each says, in their order; who goes first changes from round to round."""
    order = [(place + number) % len(acts) for place in range(len(acts))]
    said = {place: acts[place]() for place in order}
    return [said[place] for place in range(len(acts))]


def big_file(servers: Servers, folder: Path, *, rounds: int, size: int) -> tuple[str, ...]:
    """One large file: first and second upload, and s5cmd's; what failed."""
    store, sent = servers.store, Sent(servers.store)
    model = folder / "model"
    model.mkdir()
    sizes = {"model.safetensors": size}
    fill(model / "model.safetensors", size)
    ratios: dict[str, list[float]] = {
        "s5cmd": [], "described": [], "second": [], "hashed": [], "bytes": [],
    }  # fmt: skip
    for number in range(rounds):

        def s5cmd(number: int = number) -> float:
            words = (str(_S5CMD), "cp", f"{model}/", f"s3://mlflow/s5cmd/{number}/")
            url = servers.environment["AWS_ENDPOINT_URL_S3"]
            environment = {**os.environ, **servers.environment, "S3_ENDPOINT_URL": url}
            return seconds(
                lambda: subprocess.run(
                    words, env=environment, check=True, stdout=subprocess.DEVNULL
                )
            )

        theirs, ours, described = in_turns(
            number,
            s5cmd,
            lambda: send(store, model, sizes, is_known=True),
            lambda: send(store, model, sizes, is_known=False),
        )
        manifest = describe_folder(model)
        sent.bytes = 0
        again = seconds(partial(store.put, model, manifest=manifest))
        again_bytes = sent.bytes
        hashed = seconds(lambda: store.put(model))
        ratios["s5cmd"].append(ours / theirs)
        ratios["described"].append(described / theirs)
        ratios["second"].append(again / ours)
        ratios["hashed"].append(hashed / ours)
        ratios["bytes"].append(again_bytes / size)
        print(
            f"round {number}: first {ours:6.2f} s ({size / _MIB / ours:5.0f} MiB/s), described first {described:6.2f} s, "
            f"s5cmd {theirs:6.2f} s, again {again:5.2f} s, {again_bytes} bytes; again with hashing {hashed:5.2f} s"
        )
    medians = {name: statistics.median(of) for name, of in ratios.items()}
    figures = (
        Figure(
            what="first upload, time",
            value=medians["s5cmd"],
            unit="x",
            beside="s5cmd",
            at_most=_MAX_OVER_S5CMD,
        ),
        Figure(
            what="the same, hashed before", value=medians["described"], unit="x", beside="s5cmd"
        ),
        Figure(
            what="second upload, time",
            value=medians["second"],
            unit="x",
            beside="the first",
            at_most=_MAX_SECOND_TIME,
        ),
        Figure(
            what="the same, hashed before", value=medians["hashed"], unit="x", beside="the first"
        ),
        Figure(
            what="second upload, bytes",
            value=medians["bytes"],
            unit="x",
            beside="the first",
            at_most=_MAX_SECOND_BYTES,
        ),
    )
    return tell(*figures)


def many_files(servers: Servers, folder: Path, *, rounds: int, size: int) -> tuple[str, ...]:
    """A folder of many files, beside MLflow's `log_artifacts` straight to the same S3; what failed.

    At no distance the server's work decides; so it is done once more with an S3 that is as far away as they are.
    """
    here = servers.environment["AWS_ENDPOINT_URL_S3"]
    ratio = against_mlflow(servers, folder / "files", here, rounds=rounds, size=size)
    with faulty_s3(here) as proxy:
        proxy.fault = lambda _: time.sleep(_AWAY_S)
        away = against_mlflow(servers, folder / "away", proxy.url, rounds=rounds, size=size)
    what, beside = f"{_FILES} files, how many times as fast", "MLflow's log_artifacts"
    return tell(
        Figure(what=what, value=ratio, unit="x", beside=beside, at_least=_MIN_OVER_MLFLOW),
        Figure(
            what=f"{what}, S3 {_AWAY_S * 1000:.0f} ms away", value=away, unit="x", beside=beside
        ),
    )


def against_mlflow(servers: Servers, model: Path, url: str, *, rounds: int, size: int) -> float:
    """MLflow's time over ours, the median."""
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    os.environ.update(servers.environment)
    os.environ["MLFLOW_S3_ENDPOINT_URL"] = url
    store = connect_store(RegistrySettings(s3_endpoint_url=url))
    model.mkdir()
    sizes = {f"{file:03}.bin": size // _FILES for file in range(_FILES)}
    for name, each in sizes.items():
        fill(model / name, each)
    ratios: list[float] = []
    for number in range(rounds):
        repository = S3ArtifactRepository(f"s3://mlflow/{model.name}/{number}")
        theirs, ours, described = in_turns(
            number,
            lambda repository=repository: seconds(lambda: repository.log_artifacts(str(model))),
            lambda: send(store, model, sizes, is_known=True),
            lambda: send(store, model, sizes, is_known=False),
        )
        ratios.append(theirs / ours)
        print(
            f"round {number}: {_FILES} files {ours:6.2f} s, described first {described:6.2f} s, MLflow {theirs:6.2f} s"
        )
    return statistics.median(ratios)


class _Discarding(BaseHTTPRequestHandler):
    """As much of S3 as one upload asks for. Bytes are thrown away; only their number is kept."""

    protocol_version = "HTTP/1.1"
    server: Any

    def _serve(self) -> None:
        split = urlsplit(self.path)
        key = split.path.partition("/")[2].partition("/")[2]
        query = parse_qs(split.query, keep_blank_values=True)
        left = length = int(self.headers.get("Content-Length", 0))
        while left:
            left -= len(self.rfile.read(min(left, _MIB)))
        sizes: dict[str, int] = self.server.sizes
        headers: dict[str, str] = {"ETag": '"0"'}
        answer, status = "", 200
        if self.command == "PUT":
            with self.server.lock:
                sizes[key] = sizes.get(key, 0) + length
            if "X-Amz-Checksum-Sha256" in self.headers:
                headers["x-amz-checksum-sha256"] = self.headers["X-Amz-Checksum-Sha256"]
        elif self.command == "POST" and "uploads" in query:
            answer = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        elif self.command == "POST":
            answer = (
                '<CompleteMultipartUploadResult><ETag>"0"</ETag></CompleteMultipartUploadResult>'
            )
        elif "list-type" in query and "delimiter" not in query:
            listed = "".join(
                f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size></Contents>"
                for name, size in sizes.items()
            )
            answer = f"<ListBucketResult>{listed}</ListBucketResult>"
        elif "list-type" in query:
            answer = "<ListBucketResult></ListBucketResult>"
        elif "uploads" in query:
            answer = "<ListMultipartUploadsResult></ListMultipartUploadsResult>"
        else:
            status, answer = 404, "<Error><Code>NoSuchKey</Code></Error>"
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.encode())

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Says nothing."""


def memory(folder: Path, *, size: int) -> tuple[str, ...]:
    """The peak of a process that sends a sparse folder; what failed."""
    model = folder / "sparse"
    model.mkdir()
    for number in range(4):
        with (model / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(size // 4)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Discarding)
    server.sizes, server.lock = {}, threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": str(_ROOT),
    }
    try:
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", _PUT, str(model)],
            env=environment,
            stdout=subprocess.PIPE,
            check=False,
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    sent = sum(server.sizes.values())  # type: ignore[attr-defined]
    if ended.returncode != 0 or sent < size:
        sys.exit(f"the sparse folder was not sent: {sent} of {size} bytes, exit {ended.returncode}")
    peak = int(ended.stdout) * 1024 / _MIB
    what = f"{size / 2**30:.0f} GiB, sparse, to a stub"
    return tell(
        Figure(what=f"{what}: peak memory", value=peak, unit="MiB", at_most=_MAX_MEMORY_MIB),
        Figure(what=f"{what}: time", value=time.monotonic() - began, unit="s"),
    )


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Of each comparison.")] = 5,
    tiny: Annotated[bool, typer.Option(help="Small files, to try the bench out.")] = False,
    only: Annotated[str, typer.Option(help="big, files or memory; all by default.")] = "",
) -> None:
    """Compare transfers; exits with 1 where a goal is missed with real sizes."""
    size = (64 if tiny else 1024) * _MIB
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as name:
        folder = Path(name)
        if only != "memory":
            with start_servers(folder / "servers") as servers:
                if only in {"", "big"}:
                    failed += big_file(servers, folder, rounds=rounds, size=size)
                if only in {"", "files"}:
                    failed += many_files(
                        servers, folder, rounds=rounds, size=(20 if tiny else 200) * _MIB
                    )
        if only in {"", "memory"}:
            failed += memory(folder, size=(1 if tiny else 20) * 2**30)
    if failed and not tiny:
        sys.exit(f"missed: {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
