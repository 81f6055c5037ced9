"""Rollouts whose controller is killed at a random point of most ticks: all converge, and none that was rolled back
is met by users again before it is asked for anew."""

import random
from pathlib import Path

import pytest

from deploy_targets.rollout.audit import read_chain
from deploy_targets.rollout.replay import entries_of, replay
from deploy_targets.rollout.state import EndpointState
from deploy_targets.routing.traffic import Traffic
from tests.rollout.test_controller import World


class Killed(BaseException):
    """The process ends here: nothing that comes after this point happens."""


class Countdown:
    """Kills at the so-manyeth of the points before and after the calls that change the world."""

    def __init__(self, left: int | None = None) -> None:
        self.left = left

    def point(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed

    def around(self, call):
        def guarded(*args: object, **kwargs: object) -> object:
            self.point()
            answer = call(*args, **kwargs)
            self.point()
            return answer

        return guarded


class Killer(Countdown):
    """Armed anew for each tick."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def arm(self) -> None:
        self.left = self._random.choice([None, 1, 2, 3, 4, 5, 6])


def killable(world: World, seed: int) -> Killer:
    killer = Killer(seed)
    for part, names in (
        (world.target, ("apply", "shift", "retire")),
        (world.registry, ("write",)),
        (world.store, ("save",)),
        (world.record, ("write",)),
        (world.trail, ("append", "copy")),
    ):
        for name in names:
            setattr(part, name, killer.around(getattr(part, name)))
    return killer


@pytest.mark.parametrize("is_bad", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_a_controller_killed_anywhere_still_brings_the_right_traffic(
    tmp_path: Path, seed: int, *, is_bad: bool
) -> None:
    check_a_rollout_that_is_killed(tmp_path, seed, is_bad=is_bad)


@pytest.mark.faults
@pytest.mark.promise(
    "each of ten in a case ends with the right traffic and a whole record", about="kills"
)
@pytest.mark.parametrize("is_bad", [False, True])
@pytest.mark.parametrize("tens", range(4, 104))
def test_so_do_two_thousand_rollouts_killed_at_random_points(
    tmp_path: Path, tens: int, *, is_bad: bool
) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        (tmp_path / str(seed)).mkdir()
        check_a_rollout_that_is_killed(tmp_path / str(seed), seed, is_bad=is_bad)


def check_a_rollout_that_is_killed(tmp_path: Path, seed: int, *, is_bad: bool) -> None:
    """Converges, recorded without a gap, and whoever was rolled back is never met again."""
    world = World(tmp_path)
    world.release("6")
    world.users.failure_rates["7"] = 0.4 if is_bad else 0.0
    world.registry.aliases["challenger"] = "7"
    killer = killable(world, seed)
    was_rolled_back = False
    for _ in range(80):
        killer.arm()
        try:
            world.tick(1)
        except Killed:
            world.restart()
        state: EndpointState = world.state
        # Saved before acted: from here on no shift may give it traffic again.
        if "7" in state.rejected and not was_rolled_back:
            was_rolled_back = True
            world.target.shifts.clear()
        if was_rolled_back:
            assert not any(shift.percent("7") for shift in world.target.shifts)
    killer.left = None
    world.tick(5)
    survivor = "6" if is_bad else "7"
    assert world.target.traffic == Traffic.all_to(survivor)
    assert world.registry.aliases == {"champion": survivor}
    assert set(world.target.revisions) == {survivor}
    assert world.outcomes[-1] == ("rolled_back" if is_bad else "promoted")
    entries = read_chain(world.trail.lines, endpoint="chat", tail=world.state.audit)
    assert not world.state.audit.pending
    assert set(world.trail.copied) == set(world.trail.lines)
    assert replay(entries_of(entries, "chat-v7")).difference is None


def test_the_same_crashes_are_really_felt(tmp_path: Path) -> None:
    """The killer does kill: without it this suite would prove nothing."""
    world = World(tmp_path)
    killer = killable(world, seed=3)
    world.registry.aliases["challenger"] = "6"
    deaths = 0
    for _ in range(30):
        killer.arm()
        try:
            world.tick(1)
        except Killed:
            deaths += 1
    assert deaths >= 3
