"""Many rollouts side by side, each judged interval by interval until its first verdict. Pure.

The same `evidence.learn` and `judge.decide` as in the controller, over arrays: `shipway judge` brings one row for each
series, `shipway simulate` one for each run.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy_targets.judge_policy import JudgePolicy
from deploy_targets.rollout import evidence as ev
from deploy_targets.rollout.judge import DECISIONS, Decisions, decide
from deploy_targets.rollout.sequential import Array, Table
from deploy_targets.rollout.state import Decision

Rows = NDArray[np.int64]


class Interval(NamedTuple):
    """One interval of R runs."""

    tables: tuple[Table, ...]
    """One for each test; all zero where there was a gap."""
    requests: Array
    """(R, 2) The champion's and the challenger's, in intervals without a gap."""
    elapsed_s: Array
    """(R,) Since the challenger first had traffic, at the interval's end."""
    is_last: NDArray[np.bool_]
    """(R,) Whether nothing follows."""


class Ended(NamedTuple):
    """Runs that ended in the same interval: at their first verdict, or because nothing follows."""

    runs: Rows
    step: int
    """Counts the intervals of a run from 0."""
    decisions: Decisions
    memories: tuple[ev.Memory, ...]
    """Of these runs, one for each test."""
    requests: Array
    """(r, 2) Sums over all intervals."""
    compared: Array
    """(r,) The challenger's requests in intervals in which both versions had some."""
    elapsed_s: Array


Feed = Callable[[int, Rows], Interval]
"""The interval of that number for those of the runs that have not ended, in their order."""


def follow(
    tests: Sequence[ev.MetricTest], policy: JudgePolicy, feed: Feed, *, runs: int
) -> Iterator[Ended]:
    """Judges `runs` runs until all have ended. Every run ends exactly once.

    An inconclusive verdict ends a run unless the policy waits on.
    """
    terminal = {Decision.ROLL_BACK, Decision.PROMOTE}
    if policy.on_inconclusive == "roll_back":
        terminal.add(Decision.INCONCLUSIVE)
    is_terminal = np.array([decision in terminal for decision in DECISIONS])
    memories = tuple(ev.nothing_learned(test, runs) for test in tests)
    has_champion = all(test.limit is None for test in tests)
    requests, compared = np.zeros((runs, 2)), np.zeros(runs)
    left = np.arange(runs)
    step = 0
    while left.size:
        interval = feed(step, left)
        memories = tuple(
            ev.learn(test, memory, table)
            for test, memory, table in zip(tests, memories, interval.tables, strict=True)
        )
        requests = requests + interval.requests
        is_compared = (interval.requests[:, 0] > 0) | (not has_champion)
        compared = compared + interval.requests[:, 1] * is_compared
        decisions = decide(
            tests,
            memories,
            policy.promote,
            challenger_requests=compared,
            is_late=interval.elapsed_s >= policy.time_limit_s,
        )
        ended = is_terminal[decisions.code] | interval.is_last
        if ended.any():
            yield Ended(
                runs=left[ended],
                step=step,
                decisions=Decisions(decisions.code[ended], decisions.test[ended]),
                memories=tuple(memory.of(ended) for memory in memories),
                requests=requests[ended],
                compared=compared[ended],
                elapsed_s=interval.elapsed_s[ended],
            )
            left, requests, compared = left[~ended], requests[~ended], compared[~ended]
            memories = tuple(memory.of(~ended) for memory in memories)
        step += 1
