"""An MLflow over real HTTP that answers well from a small table, until one of its calls is told to misbehave."""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.builders import a_version

MODEL = "smollm2"
API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/"
RUN = "4f1a0b3c"

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: "BadMlflow"
    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        length = {"Content-Length": str(len(body))}
        for name, value in {"Content-Type": "application/json", **length, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def break_off(self) -> None:
        """So that the client meets a reset, not an end."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def _serve(self) -> None:
        split = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.is_upload = split.path.startswith(ARTIFACTS)
        self.call = "artifact" if self.is_upload else split.path.removeprefix(API)
        query = {key: one[0] for key, one in parse_qs(split.query).items()}
        self.asked: dict[str, Any] = query if self.is_upload or not content else json.loads(content)
        self.server.calls.append(self.call)
        fault = self.server.faults.get(self.call) or self.server.faults.get("")
        if fault is not None:
            fault(self)
        elif self.is_upload:
            self.answer(b"")
        else:
            self.answer(json.dumps(self.server.good_answer(self)).encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Says nothing."""


class BadMlflow(ThreadingHTTPServer):
    """The model's v5 to v8, with aliases and stages; nobody asks for v8, so that what others tell is not told with the model."""

    daemon_threads = True
    request_queue_size = 50

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, Answer] = {}
        """Call to what it answers instead; "" stands for all of them."""
        self.calls: list[str] = []
        self.released = threading.Event()
        """Ends the answers that hang."""
        self.aliases = {"champion": "6", "challenger": "7"}
        self.stages = {
            "5": "Archived",
            "6": "Production",
            "7": "Production",
            "8": "Staging",
        }
        self.moves = dict.fromkeys(self.stages, 0)
        self.tags = {version: a_version(version).tags for version in self.stages}

        run, info = {"run": self._run()}, {"run_info": self._run()["info"]}
        point = {"key": "weight_percent", "value": 5, "step": 2}
        self.table: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "GET registered-models/get": self._registered,
            "POST registered-models/alias": self._alias,
            "DELETE registered-models/alias": self._no_alias,
            "GET model-versions/get": self._version,
            "GET model-versions/search": self._versions,
            "POST model-versions/transition-stage": self._stage,
            "POST model-versions/set-tag": self._tag,
            "GET experiments/get-by-name": lambda asked: {
                "experiment": {"experiment_id": "3", "name": asked["experiment_name"]}
            },
            "POST runs/search": lambda _: {"runs": [self._run()]},
            "GET runs/get": lambda _: run,
            "POST runs/create": lambda _: run,
            "POST runs/update": lambda _: info,
            "POST runs/log-batch": lambda _: None,
            "GET metrics/get-history": lambda _: {"metrics": [point]},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def model_version(self, version: str) -> dict[str, Any]:
        return {
            "name": MODEL,
            "version": version,
            "source": a_version(version).source,
            "current_stage": self.stages[version],
            "last_updated_timestamp": self.moves[version],
            "status": "READY",
            "tags": [{"key": key, "value": value} for key, value in self.tags[version].items()],
        }

    def move_to_stage(self, version: str, stage: str) -> None:
        self.stages[version] = stage
        self.moves[version] = max(self.moves.values()) + 1

    def good_answer(self, request: Handler) -> dict[str, Any]:
        say = self.table.get(f"{request.command} {request.call}")
        assert say is not None, f"{request.command} {request.call} is not in the table"
        return say(request.asked) or {}

    def _alias(self, asked: dict[str, Any]) -> None:
        self.aliases[asked["alias"]] = asked["version"]

    def _no_alias(self, asked: dict[str, Any]) -> None:
        self.aliases.pop(asked["alias"], None)

    def _tag(self, asked: dict[str, Any]) -> None:
        version, key = asked["version"], asked["key"]
        self.tags[version] = {**self.tags[version], key: asked["value"]}

    def _registered(self, _: object) -> dict[str, Any]:
        aliases = [{"alias": alias, "version": version} for alias, version in self.aliases.items()]
        return {"registered_model": {"name": MODEL, "aliases": aliases, **self._latest()}}

    def _latest(self) -> dict[str, Any]:
        newest = {stage: version for version, stage in self.stages.items()}
        return {"latest_versions": [self.model_version(one) for one in newest.values()]}

    def _versions(self, _: object) -> dict[str, Any]:
        return {"model_versions": [self.model_version(one) for one in self.stages]}

    def _version(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"model_version": self.model_version(asked["version"])}

    def _stage(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.move_to_stage(asked["version"], asked["stage"])
        return self._version(asked)

    @staticmethod
    def _run() -> dict[str, Any]:
        where = f"mlflow-artifacts:/3/{RUN}/artifacts"
        info = {"run_id": RUN, "experiment_id": "3", "status": "RUNNING", "start_time": 1}
        return {"info": {**info, "artifact_uri": where}, "data": {}}


@contextmanager
def a_bad_mlflow() -> Generator[BadMlflow]:
    """All is well until `faults` says otherwise."""
    with BadMlflow() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def _says(text: str, status: int = 200, **headers: str) -> Answer:
    return lambda request: request.answer(text.encode(), status, **headers)


def _half(request: Handler) -> None:
    whole = b"{}" if request.is_upload else json.dumps(request.server.good_answer(request)).encode()
    request.send_response(200)
    request.send_header("Content-Length", str(len(whole)))
    request.end_headers()
    request.wfile.write(whole[: len(whole) // 2])
    request.close_connection = True


def _hang(request: Handler) -> None:
    request.server.released.wait(60)
    request.close_connection = True


def drip(request: Handler) -> None:
    """One byte before each timeout, of a body that is never whole."""
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    _drop_by_drop(request)


def drip_headers(request: Handler) -> None:
    """The same before the body begins."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _drop_by_drop(request)


def _drop_by_drop(request: Handler) -> None:
    request.close_connection = True
    with contextlib.suppress(OSError):
        while not request.server.released.wait(0.2):
            request.wfile.write(b" ")
            request.wfile.flush()


_PAGE = "<!DOCTYPE html><html><body>Sign in to continue</body></html>"
_OTHER_SHAPE: dict[str, Any] = {
    "registered_model": [7],
    "model_version": "7",
    "model_versions": {"7": {}},
    "experiment": 3,
    "run": "running",
    "run_info": "running",
    "runs": {"name": "run"},
    "metrics": 4,
}
_OTHERS: dict[str, Any] = {
    "registered_model": {"name": "another"},
    "model_version": {"name": "another", "version": "1", "source": "s3://b/1", "current_stage": "None"},
    "model_versions": [
        {"name": "another", "version": "1", "source": "s3://b/1", "current_stage": "None"}
    ],
    "experiment": {"name": "another"},
    "run": {"info": {"run_id": ""}, "data": {}},
    "run_info": {},
}  # fmt: skip

FAULTS: dict[str, Answer] = {
    "not JSON": _says("it works!"),
    "a page of a proxy": _says(_PAGE, Content_Type="text/html"),
    "a list": _says("[]"),
    "half an answer": _half,
    "500": _says('{"error_code": "INTERNAL_ERROR", "message": "oh"}', 500),
    "500 in other words": _says('{"error_code": {"is": 7}, "message": null}', 500),
    "a page that is not found": _says(_PAGE, 404, Content_Type="text/html"),
    "bytes that do not unpack": _says("{}", Content_Encoding="gzip"),
    "come again in an hour": _says("", 503, Retry_After="3600"),
    "hangs": _hang,
    "resets": Handler.break_off,
}
"""Whatever is asked, this is no answer."""

CONTENT_FAULTS: dict[str, Answer] = {
    "nothing": _says(""),
    "an empty object": _says("{}"),
    "another shape": _says(json.dumps(_OTHER_SHAPE)),
    "about something else": _says(json.dumps(_OTHERS)),
    "a parameter that is missing": _says(
        '{"error_code": "INVALID_PARAMETER_VALUE", "message": "Missing value for name"}', 400
    ),
}
"""No answer either, where the call has something to tell."""
