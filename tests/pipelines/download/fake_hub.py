"""As much of the hub's API as a download needs, with its redirects, ranges and digests, and the faults of a real one."""

import hashlib
import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".gguf", ".bin")


@dataclass(kw_only=True)
class FakeHub:
    """One repository, org/name, whose `main` is COMMIT; weights are large files behind a redirect, as LFS has them."""

    folder: Path
    address: str = ""
    asked: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of content handed out, by file."""
    cut_after: int | None = None
    """Large files break off after that many bytes of an answer, as often as `cuts` says."""
    cuts: int = 0
    refuse_after: int | None = None
    """With so many bytes sent in all, every later request for content is answered 403: the token has expired."""
    lie: bool = False
    """It promises other digests than those of its files."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while an answer is decided, for requests come side by side."""

    def info(self) -> dict:
        files = [p for p in sorted(self.folder.rglob("*")) if p.is_file()]
        siblings = [self._sibling(p) for p in files]
        return {"id": "org/name", "sha": COMMIT, "siblings": siblings}

    def _sibling(self, path: Path) -> dict:
        content = path.read_bytes() + (b"!" if self.lie else b"")
        name, size = path.relative_to(self.folder).as_posix(), path.stat().st_size
        blob = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
        told = {"rfilename": name, "size": size, "blobId": blob}
        if name.endswith(_LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            told["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
        return told


@contextmanager
def serve_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub at its `address`, until the end of the block."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append(path)
        if re.fullmatch(rf"/api/models/org/name/revision/({COMMIT}|main)", path):
            self.answer(200, json.dumps(hub.info()).encode())
        elif path.startswith(prefix := f"/org/name/resolve/{COMMIT}/"):
            name = path.removeprefix(prefix)
            if name.endswith(_LARGE):
                self.answer(302, b"", Location=f"/signed/{name}", **{"X-Repo-Commit": COMMIT})
            else:
                self.content(name)
        elif path.startswith("/signed/"):
            self.content(path.removeprefix("/signed/"))
        else:
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})

    def content(self, name: str) -> None:
        hub = self.hub
        body = whole = (hub.folder / name).read_bytes()
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            body = whole[int(asked[1]) : int(asked[2]) + 1]
        promised = len(body)
        with hub.turn:
            is_refused = hub.refuse_after is not None and hub.sent.total() >= hub.refuse_after
            if hub.cuts > 0 and hub.cut_after is not None and promised > hub.cut_after:
                hub.cuts -= 1
                body = body[: hub.cut_after]
                self.close_connection = True
            if not is_refused:
                hub.sent[name] += len(body)
        if is_refused:
            self.answer(403, b"token expired")
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(promised))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        self.wfile.write(body)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """It keeps quiet."""
