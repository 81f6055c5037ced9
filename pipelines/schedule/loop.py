"""`shipway schedule run`: looks every few seconds what is due, starts it, and records what became of it.

All that is remembered is in MLflow and in the files of `children`, so that a loop which was killed is followed by another
that knows as much.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import assert_never

from pipelines.schedule.children import Children
from pipelines.schedule.declared import Schedule
from pipelines.schedule.due import Miss, Start, due
from pipelines.schedule.records import History, Outcome, Records
from registry.errors import Unavailable

POLL_S = 10
Say = Callable[[str], None]


class Loop:
    """The schedules of one file."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        records: Records,
        children: Children,
        *,
        command: Callable[[Schedule, str], Sequence[str]],
        since: datetime,
        say: Say,
    ) -> None:
        """`command` is what to run of a schedule as the MLflow run of that id; `since`, when the loop began."""
        self._schedules, self._records, self._children = schedules, records, children
        self._command, self._since, self._say = command, since, say

    def tick(self, now: datetime) -> None:
        """Records what has ended, then starts what is due.

        Raises:
            Unavailable: MLflow gives no answer. Nothing is started that is not recorded.
        """
        histories = {one.name: self._settled(one.name) for one in self._schedules}
        past = {name: history.past for name, history in histories.items()}
        for action in due(self._schedules, past, since=self._since, now=now):
            match action:
                case Start():
                    self._start(action, histories[action.schedule.name])
                case Miss(schedule=schedule, at=at, reason=reason):
                    self._records.miss(action)
                    self._say(f"{schedule.name} of {at.isoformat()} was missed: {reason}")
                case _:
                    assert_never(action)

    def stop(self) -> None:
        """Has everything end that runs, and records it.

        Raises:
            Unavailable: MLflow gives no answer. Everything is ended all the same, and the next loop records it.
        """
        try:
            for schedule in self._schedules:
                history = self._settled(schedule.name)
                self._end(schedule.name, sorted(history.own), Outcome.INTERRUPTED)
        except Unavailable:
            for run_id in self._children.end_all():
                self._say(f"ended, and not recorded yet: run {run_id}")
            raise

    def _settled(self, name: str) -> History:
        """What is recorded of that schedule, once the runs whose process is gone are recorded as such."""
        history = self._records.history(name)
        gone = [run_id for run_id in sorted(history.own) if not self._children.runs(run_id)]
        for run_id in gone:
            # Asked for again: it may have ended between the two looks.
            status = self._records.history(name).status.get(run_id, "")
            outcome = self._records.end(run_id, status)
            self._children.forget(run_id)
            self._say(f"{name} {outcome}, run {run_id}; see {self._children.log(run_id)}")
        return self._records.history(name) if gone else history

    def _start(self, start: Start, history: History) -> None:
        name = start.schedule.name
        self._end(name, [r for r in start.replaces if r in history.own], Outcome.REPLACED)
        run_id = self._records.begin(start)
        try:
            self._children.start(run_id, self._command(start.schedule, run_id))
        except OSError as error:
            reason = f"it could not be started ({error})"
            self._records.end(run_id, "RUNNING", outcome=Outcome.FAILED, reason=reason)
            self._say(f"{name} of {start.at.isoformat()} failed: {reason}")
            return
        beside = f", beside {len(history.past.running)} more" if history.past.running else ""
        self._say(f"{name} of {start.at.isoformat()} started, run {run_id}{beside}")

    def _end(self, name: str, run_ids: Sequence[str], outcome: Outcome) -> None:
        if not run_ids:
            return
        self._children.end(run_ids)
        status = self._records.history(name).status
        for run_id in run_ids:
            # One that has just ended by itself has not been ended.
            told = Outcome.SUCCEEDED if status.get(run_id) == "FINISHED" else outcome
            self._records.end(run_id, status.get(run_id, ""), outcome=told)
            self._children.forget(run_id)
            self._say(f"{name} {told}, run {run_id}")


def run_loop(
    loop: Loop, *, clock: Callable[[], datetime], wait: Callable[[float], bool], say: Say
) -> None:
    """Ticks until `wait` (seconds) says that it is time to end, then ends what runs."""
    while True:
        try:
            loop.tick(clock())
        except Unavailable as error:
            say(f"nothing is started while nothing can be recorded: {error}")
        if wait(POLL_S):
            break
    loop.stop()
