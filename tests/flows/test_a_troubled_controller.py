"""The controller of a real local stack is not alone, its clock jumps, or its disk takes nothing more, in the middle of a rollout.

The second one and the one whose clock jumps are processes of their own (`other_controller`). A disk is full in that the kernel
refuses each byte that the process would write to a file (RLIMIT_FSIZE, so EFBIG in ENOSPC's place), and later does not.
docs/promises.md is written from what is measured here.
"""

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_targets.local.process import end_all
from registry.promotion import CHAMPION
from tests.flows.failing_stack import FailingStack, a_failing_stack, fails_in_mid_rollout
from tests.flows.other_controller import OtherController, OwnPage
from tests.flows.test_the_stack import ENDPOINTS

pytestmark = [pytest.mark.real, pytest.mark.faults, pytest.mark.timeout(600)]

FULL_S = 10
JUMPS = {
    "a day ahead": (86_400,),
    "a day back": (-86_400,),
    "ten minutes to and fro": (600, -600, 600, -600, 600, -600),
}
"""Where the clock stands after each, in seconds from what it should say; a look lies between two."""
RECORDED = """
    guard:
      record: {sample: 1.0, requests_per_minute: 100000}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingStack]:
    folder = tmp_path_factory.mktemp("troubled")
    with a_failing_stack(folder, ENDPOINTS + RECORDED.removeprefix("\n")) as running:
        yield running


@pytest.fixture
def own(running: FailingStack) -> Iterator[OwnPage]:
    """The ordinary controller's page. After the test it runs and leads, whatever has happened."""
    yield OwnPage(running.info.ports["controller"])
    end_all(running.of_part("controller"), patience_s=10)
    running.up()
    page = OwnPage(running.info.ports["controller"])
    running.until(lambda: page.leads)


@pytest.mark.promise(
    "it waits, follows when the first is killed, and no client notices", about="controllers"
)
def test_a_second_controller_is_started_in_the_same_home(
    running: FailingStack,
    next_version: str,
    own: OwnPage,
    record_property,
) -> None:
    second = OtherController(running, "second")
    followed_s = 0.0
    try:
        assert (own.leads, second.page.leads) == (True, False)

        def fail() -> None:
            nonlocal followed_s
            assert second.page.looks() == 0
            killed = time.monotonic()
            os.kill(running.info.processes["controller"].pid, signal.SIGKILL)
            running.until(lambda: second.page.leads and second.page.looks() > 0)
            followed_s = time.monotonic() - killed

        def tell(name: str, words: str) -> None:
            record_property(name, f"it followed within {followed_s:.1f} s; {words}")

        assert fails_in_mid_rollout(running, next_version, fail, tell) == 0
        assert running.aliases[CHAMPION] == next_version
    finally:
        second.end()


@pytest.mark.promise(
    "neither undoes what the other decided, and no client notices", about="controllers"
)
def test_two_controllers_both_lead_for_the_lock_between_them_was_deleted(
    running: FailingStack,
    next_version: str,
    own: OwnPage,
    record_property,
) -> None:
    (running.home.folder("controller") / "leader.lock").unlink()
    second = OtherController(running, "second")
    try:
        running.until(lambda: second.page.leads)
        before = own.looks()

        def fail() -> None:
            assert own.leads
            assert second.page.leads

        def tell(name: str, words: str) -> None:
            looks = own.looks() - before, second.page.looks()
            conflicts = sum(one.looks(result="conflict") for one in (own, second.page))
            failed = sum(one.looks(result="failed") for one in (own, second.page))
            assert min(looks) > 3
            assert failed == 0
            record_property(
                name,
                f"{looks[0]} and {looks[1]} looks, {conflicts} of them gave way to a newer state; {words}",
            )

        assert fails_in_mid_rollout(running, next_version, fail, tell) == 0
        assert running.aliases[CHAMPION] == next_version
    finally:
        second.end()


@pytest.mark.promise(
    "it may end the rollout and never passes it without its requests; no client notices",
    about="clocks",
)
@pytest.mark.parametrize("jump", JUMPS)
def test_the_controllers_clock_jumps(
    running: FailingStack,
    next_version: str,
    own: OwnPage,
    tmp_path: Path,
    jump: str,
    record_property,
) -> None:
    end_all(running.of_part("controller"), patience_s=10)
    shift = tmp_path / "shift"

    def set_by(seconds: int) -> None:
        written = tmp_path / "written"
        written.write_text(str(seconds))
        written.replace(shift)

    set_by(0)
    jumping = OtherController(
        running, "jumping", "-m", "tests.flows.other_controller", running.file.resolve(), shift
    )
    try:
        running.until(lambda: jumping.page.leads)

        def fail() -> None:
            for seconds in JUMPS[jump]:
                set_by(seconds)
                looks = jumping.page.looks()
                running.until(lambda looks=looks: jumping.page.looks() > looks)

        assert fails_in_mid_rollout(running, next_version, fail, record_property) == 0
        if running.aliases[CHAMPION] == next_version:
            assert running.counted(next_version) >= 30
        assert jumping.page.looks(result="failed") == 0
    finally:
        jumping.end()


@pytest.mark.promise(
    "no client notices, and the rollout goes on where there is room again", about="disks"
)
@pytest.mark.parametrize("part", ["controller", "chat.guard", "mlflow"])
def test_the_disk_of_a_part_takes_nothing_more(
    running: FailingStack,
    next_version: str,
    part: str,
    record_property,
) -> None:
    def may_write(most: int) -> None:
        for process in running.of_part(part):
            _, hard = process.rlimit(resource.RLIMIT_FSIZE)
            process.rlimit(resource.RLIMIT_FSIZE, (most, hard))

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        running.until(lambda: time.monotonic() > end)

    def fail() -> None:
        may_write(0)
        try:
            wait(2)  # a look under way had saved before
            before = running.status.traffic
            wait(FULL_S)
            if part == "controller":
                # Saved before it acts: what cannot be saved is not done.
                assert running.status.traffic == before
        finally:
            may_write(resource.RLIM_INFINITY)

    def noticed() -> int:
        """How often the part, or who asks it, found no room."""
        if part == "chat.guard":
            admin = OwnPage(running.info.ports["chat.guard_admin"])
            return admin.total("llm_guard_records_total", result="dropped")
        if part == "controller":
            return OwnPage(running.info.ports["controller"]).looks(result="failed")
        return running.home.log("controller").read_text().count('"journal.failed"')

    before = noticed()

    def tell(name: str, words: str) -> None:
        what = {"controller": "looks", "chat.guard": "records"}.get(part, "points of the journal")
        record_property(name, f"{noticed() - before} {what} found no room in {FULL_S} s; {words}")

    assert fails_in_mid_rollout(running, next_version, fail, tell) == 0
    assert running.aliases[CHAMPION] == next_version
    assert noticed() > before
