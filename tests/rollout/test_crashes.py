"""Rollouts whose controller is killed at a random point of most ticks: all converge, and none that was rolled back
is met by users again before it is asked for anew."""

import contextlib
import random
from pathlib import Path

import pytest

from deploy_targets.rollout.state import EndpointState
from deploy_targets.routing.traffic import Traffic
from tests.rollout.test_controller import World


class Killed(BaseException):
    """The process ends here: nothing that comes after this point happens."""


class Killer:
    """Counts the calls that change the world, and kills before or after one of them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._countdown: int | None = None

    def arm(self) -> None:
        self._countdown = self._random.choice([None, 1, 2, 3, 4, 5, 6])

    def point(self) -> None:
        if self._countdown is not None:
            self._countdown -= 1
            if self._countdown == 0:
                raise Killed

    def around(self, call):
        def guarded(*args: object, **kwargs: object) -> object:
            self.point()
            answer = call(*args, **kwargs)
            self.point()
            return answer

        return guarded


def killable(world: World, seed: int) -> Killer:
    killer = Killer(seed)
    for part, names in (
        (world.target, ("apply", "shift", "retire")),
        (world.registry, ("write",)),
        (world.store, ("save",)),
        (world.record, ("write",)),
    ):
        for name in names:
            setattr(part, name, killer.around(getattr(part, name)))
    return killer


@pytest.mark.parametrize("is_bad", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_a_controller_killed_anywhere_still_brings_the_right_traffic(
    tmp_path: Path, seed: int, *, is_bad: bool
) -> None:
    world = World(tmp_path)
    world.release("6")
    world.users.failure_rates["7"] = 0.4 if is_bad else 0.0
    world.registry.aliases["challenger"] = "7"
    killer = killable(world, seed)
    was_rolled_back = False
    for _ in range(80):
        killer.arm()
        with contextlib.suppress(Killed):
            world.tick(1)
        state: EndpointState = world.state
        # Saved before acted: from here on no shift may give it traffic again.
        if "7" in state.rejected and not was_rolled_back:
            was_rolled_back = True
            world.target.shifts.clear()
        if was_rolled_back:
            assert not any(shift.percent("7") for shift in world.target.shifts)
    killer._countdown = None
    world.tick(5)
    survivor = "6" if is_bad else "7"
    assert world.target.traffic == Traffic.all_to(survivor)
    assert world.registry.aliases == {"champion": survivor}
    assert set(world.target.revisions) == {survivor}
    assert world.outcomes[-1] == ("rolled_back" if is_bad else "promoted")


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
