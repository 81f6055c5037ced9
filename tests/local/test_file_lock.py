"""Two controllers on one machine: one leads, however many processes or objects ask."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy_targets.local.file_lock import FileLeadership
from tests.repo.reference import ROOT

HOLD = """
import sys
from pathlib import Path
from deploy_targets.local.file_lock import FileLeadership
lock = FileLeadership(Path(sys.argv[1]))
print(lock.leads(), flush=True)
sys.stdin.read()
"""


def test_one_leads_until_it_ends(tmp_path: Path) -> None:
    first, second = (FileLeadership(tmp_path / "lock") for _ in range(2))
    assert [first.leads(), second.leads(), first.leads()] == [True, False, True]
    first.end()
    assert [first.leads(), second.leads()] == [False, True]
    second.end()


@pytest.mark.promise("the next one leads at once", about="controllers")
def test_a_process_that_is_killed_leaves_the_lock_to_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    other = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        told = [other.stdout.readline() for _ in range(2)]
        mine = FileLeadership(tmp_path / "lock")
        assert told[-1].strip().endswith("True"), told
        assert not mine.leads()
        other.kill()
        other.wait()
        assert mine.leads()
        mine.end()


def test_a_hint_has_the_loop_look(tmp_path: Path) -> None:
    looks: list[str | None] = []
    lock = FileLeadership(tmp_path / "lock")
    lock.begin(looks.append)
    assert lock.knows()
    lock.hint("qwen")
    lock.hint()
    assert looks == ["qwen", None]
