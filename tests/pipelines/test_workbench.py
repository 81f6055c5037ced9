"""Work that is done once: by its inputs, whole or not at all, by one process at a time."""

import errno
import fcntl
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import workbench
from pipelines.workbench import Product, Workbench, code_of, is_disk_full, key_of, subfolder
from registry.digests import describe_folder
from registry.errors import StageFailed

JSON = st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=3), st.integers()))


class Work:
    """Writes one file, and counts how often it was asked to."""

    def __init__(self, content: str = "made") -> None:
        self.content = content
        self.times = 0

    def __call__(self, folder: Path) -> Product:
        self.times += 1
        assert [path.name for path in folder.iterdir()] == ["started.json"]
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(self.content)
        return Product(facts={"a": "b"}, metrics={"loss": 0.5}, reports=("model/weights",))


def test_the_same_inputs_are_worked_on_once(tmp_path) -> None:
    work = Work()
    first = Workbench(tmp_path).do("quantize", {"model": "x", "bits": 4}, work, run_ids=["r1"])
    again = Workbench(tmp_path).do("quantize", {"bits": 4, "model": "x"}, work, run_ids=["r2"])
    assert work.times == 1
    assert (first.is_reused, again.is_reused) == (False, True)
    assert (again.folder, again.product, again.manifest) == (
        first.folder,
        first.product,
        first.manifest,
    )
    assert again.run_id == "r1"


@pytest.mark.parametrize(
    ("stage", "inputs"), [("evaluate", {"model": "x"}), ("quantize", {"model": "y"})]
)
def test_other_inputs_are_other_work(tmp_path, stage, inputs) -> None:
    bench = Workbench(tmp_path)
    one = bench.do("quantize", {"model": "x"}, Work("one"))
    other = bench.do(stage, inputs, Work("other"))
    assert one.folder != other.folder
    assert (one.folder / "model" / "weights").read_text() == "one"


def tamper(folder: Path) -> None:
    (folder / "model" / "weights").write_text("evil")


def add(folder: Path) -> None:
    (folder / "model" / "more").touch()


def remove(folder: Path) -> None:
    (folder / "model" / "weights").unlink()


def link(folder: Path) -> None:
    (folder / "model" / "link").symlink_to("/etc/passwd")


def forget(folder: Path) -> None:
    (folder / "done.json").unlink()


def garble(folder: Path) -> None:
    (folder / "done.json").write_text("{")


@pytest.mark.parametrize("spoil", [tamper, add, remove, link, forget, garble])
def test_a_work_folder_that_is_not_as_it_was_left_is_made_anew(tmp_path, spoil) -> None:
    work = Work()
    bench = Workbench(tmp_path)
    first = bench.do("quantize", {}, work)
    spoil(first.folder)
    again = bench.do("quantize", {}, work)
    assert (work.times, again.is_reused) == (2, False)
    assert again.manifest == first.manifest
    assert describe_folder(again.folder / "model") == subfolder(again.manifest, "model")


def test_fresh_work_is_done_again_once(tmp_path) -> None:
    work = Work()
    Workbench(tmp_path).do("quantize", {}, work)
    bench = Workbench(tmp_path, fresh=True)
    assert not bench.do("quantize", {}, work).is_reused
    assert bench.do("quantize", {}, work).is_reused
    assert work.times == 2


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_work_that_fails_leaves_nothing(tmp_path, error) -> None:
    def fail(folder: Path) -> Product:
        (folder / "half").touch()
        raise error

    with pytest.raises(type(error)):
        Workbench(tmp_path).do("quantize", {}, fail)
    assert [path for path in (tmp_path / "work").iterdir() if path.is_dir()] == []


def test_the_folder_is_told_by_the_digest_of_what_is_handed_on(tmp_path) -> None:
    finished = Workbench(tmp_path).do("quantize", {}, Work())
    assert finished.files_of("model").digest == describe_folder(finished.folder / "model").digest


def test_the_runs_of_a_process_that_died_are_told_once(tmp_path) -> None:
    told: list[str] = []
    folder = tmp_path / "work" / f"quantize-{key_of({})}"
    folder.mkdir(parents=True)
    (folder / "started.json").write_text(json.dumps({"run_ids": ["stage", "release"]}))
    bench = Workbench(tmp_path)
    for _ in range(2):
        bench.do("quantize", {}, Work(), on_abandoned=told.append)
    assert told == ["stage", "release"]


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"run_id": "older"}'])
def test_a_note_that_died_half_written_is_no_obstacle(tmp_path, text) -> None:
    folder = tmp_path / "work" / f"quantize-{key_of({})}"
    folder.mkdir(parents=True)
    (folder / "started.json").write_text(text)
    assert not Workbench(tmp_path).do("quantize", {}, Work()).is_reused


@pytest.mark.parametrize("text", ["[]", "5", "{}", '{"files": []}', '{"files": {"files": 5}}'])
def test_a_done_note_that_says_nothing_useful_counts_as_not_done(tmp_path, text) -> None:
    bench = Workbench(tmp_path)
    first = bench.do("quantize", {}, Work())
    (first.folder / "done.json").write_text(text)
    assert not bench.do("quantize", {}, Work()).is_reused


def test_one_process_works_on_a_folder_at_a_time(tmp_path) -> None:
    lock = tmp_path / "work" / f".quantize-{key_of({})}.lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StageFailed, match="Another process is working on quantize-"):
            Workbench(tmp_path).do("quantize", {}, Work())
    assert not Workbench(tmp_path).do("quantize", {}, Work()).is_reused


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def caused(by: BaseException) -> BaseException:
    error = RuntimeError("it failed")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (no_space(), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (caused(no_space()), True),
        (ValueError("Error while serializing: IoError(Os { code: 28, ... (os error 28)"), True),
        (RuntimeError("write failed: No space left on device"), True),
        (OSError(errno.EACCES, "denied"), False),
        (caused(ValueError("os error 2")), False),
        (None, False),
    ],
)
def test_a_full_disk_is_recognised_in_whatever_words(error, is_full) -> None:
    assert is_disk_full(error) is is_full


def test_a_chain_of_errors_that_bites_its_tail_ends() -> None:
    error = RuntimeError("a")
    error.__context__ = caused(error)
    assert not is_disk_full(error)


def test_a_full_disk_is_told_with_what_to_do(tmp_path) -> None:
    def fail(_: Path) -> Product:
        raise caused(no_space())

    with pytest.raises(StageFailed, match="Make room there, or point SHIPWAY_HOME"):
        Workbench(tmp_path).do("quantize", {}, fail)


@given(JSON, JSON)
def test_names_are_equal_exactly_when_inputs_are(left: dict[str, Any], right) -> None:
    assert (key_of(left) == key_of(right)) is (left == right)
    assert key_of(left) == key_of(dict(reversed(left.items())))


def test_a_change_of_the_code_is_other_work(tmp_path) -> None:
    package = tmp_path / "stage"
    package.mkdir()
    file = package / "__main__.py"
    seen: list[dict[str, str]] = []
    for path, text in (
        (file, "one"),
        (file, "two"),
        (package / "methods.py", "three"),
        (tmp_path / "loading.py", "shared by all stages"),
    ):
        path.write_text(text)
        seen.append(code_of(str(file), ["pytest"]))
    assert len({one["source"] for one in seen}) == len(seen)
    (package / "notes.txt").write_text("no code")
    assert code_of(str(file), ["pytest"]) == seen[-1]
    assert code_of(str(file), ["hypothesis"]).keys() == {"source", "hypothesis"}


def test_what_nobody_used_for_long_is_swept_away_and_what_was_used_stays(tmp_path) -> None:
    bench = Workbench(tmp_path)
    old, used = (bench.do("quantize", {"model": name}, Work()).folder for name in "ab")
    half = tmp_path / "incoming" / "half"
    half.mkdir(parents=True)
    (half / "part").write_text("x")
    for path in (old / "done.json", used / "done.json", half / "part", half):
        os.utime(path, (1000, 1000))
    bench.do("quantize", {"model": "b"}, Work())

    swept = bench.sweep(unused_since=2000)

    assert swept == tuple(sorted([old.name, "half"]))
    assert (old.exists(), used.exists(), half.exists()) == (False, True, False)


def test_what_another_process_works_on_is_not_swept_away(tmp_path) -> None:
    bench = Workbench(tmp_path)
    folder = bench.do("quantize", {}, Work()).folder
    os.utime(folder / "done.json", (1000, 1000))
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert bench.sweep(unused_since=2000) == ()
    assert folder.exists()


def test_what_goes_away_or_is_used_while_one_sweeps_is_no_obstacle(tmp_path, monkeypatch) -> None:
    bench = Workbench(tmp_path)
    folder = bench.do("quantize", {}, Work()).folder
    os.utime(folder / "done.json", (1000, 1000))
    (tmp_path / "work" / "busy").mkdir()
    (tmp_path / "work" / "busy" / "scratch").write_text("x")
    there = Path.rglob

    def vanishing(path: Path, pattern: str):
        yield from there(path, pattern)
        yield path / "gone"

    monkeypatch.setattr(Path, "rglob", vanishing)
    alone = workbench._alone_with

    @contextmanager
    def after_another(path: Path):
        with alone(path):
            os.utime(folder / "done.json", (3000, 3000))
            yield

    monkeypatch.setattr(workbench, "_alone_with", after_another)
    assert bench.sweep(unused_since=2000) == ()
    assert folder.exists()
