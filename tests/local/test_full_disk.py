"""A small disk that is really full (ENOSPC, of a tmpfs in a mount namespace): what is kept on it stays whole."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.repo.reference import ROOT

ON_IT = """
import gzip, json, sys
from contextlib import suppress
from pathlib import Path

import structlog

from deploy_targets.guard.spool import Spool
from deploy_targets.local.home import write_json
from deploy_targets.process_log import log_to
from deploy_targets.rollout.state import EndpointState
from deploy_targets.rollout.store import SqliteStore

disk = Path(sys.argv[1])
store, spool = SqliteStore(disk / "state.db"), Spool(disk / "spool", max_bytes=1 << 20)
log_to((disk / "log").open("w"))
revision = ""
written = []

def save():
    global revision
    revision = store.save(EndpointState(endpoint="chat"), expected=revision)

def record():
    text = f"{len(written)}" * 3_000
    spool.write({"text": text})
    written.append(text)

def outcome(call):
    try:
        return str(call() or "done")
    except Exception as error:
        return type(error).__name__

def round():
    return {
        "save": outcome(save),
        "load": outcome(lambda: store.load("chat").revision == revision),
        "weights": outcome(lambda: write_json(disk / "routes.json", ["x" * 5_000])),
        "records": [outcome(record) for _ in range(3)],
        "log": outcome(lambda: structlog.get_logger().info("x" * 5_000)),
    }

rounds = [round()]
with suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
    while True:
        fill.write(bytes(4096))
rounds.append(round())
(disk / "fill").unlink()
rounds.append(round())
spool.seal()
(sealed,) = (disk / "spool").glob("*.gz")
kept = [json.loads(line)["text"] for line in gzip.decompress(sealed.read_bytes()).splitlines()]
logged = [json.loads(line)["event"][:14] for line in (disk / "log").read_text().splitlines()]
print(json.dumps({"rounds": rounds, "kept": kept == written, "log": logged}))
"""


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    disk = shlex.quote(str(tmp_path))
    script = f'mount -t tmpfs -o size=512k tmpfs {disk} && exec "$0" -c "$1" {disk}'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, ON_IT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.promise(
    "nothing is done that is not saved, what was kept stays whole, and all goes on with room",
    about="disks",
)
def test_a_disk_fills_up_and_has_room_again(told: dict[str, Any], record_property) -> None:
    well = {"save": "done", "load": "True", "weights": "done", "records": ["done"] * 3}
    before, full, after = told["rounds"]
    assert before == after == {**well, "log": "done"}
    assert "OSError" in full.pop("records")  # the first may find room in the last page
    assert full == {
        "save": "StateUnavailable",
        "load": "StateUnavailable",
        "weights": "TargetUnavailable",
        "log": "done",
    }
    assert told["kept"]
    assert "log.lines_lost" in told["log"]
    record_property(
        "measured",
        "not looked at while it is full; the state whole after, no half line in records and log",
    )
