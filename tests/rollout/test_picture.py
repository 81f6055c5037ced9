"""The picture of a rollout can be drawn at any moment of it."""

import struct
from datetime import timedelta

import pytest

from deploy_targets.rollout.picture import draw_rollout
from deploy_targets.rollout.state import Counts, Point
from tests.builders import NOON, an_exposed_rollout


@pytest.mark.parametrize("points", [0, 1, 50])
@pytest.mark.parametrize("e_value", [1.0, 1e300])
def test_a_rollout_of_any_length_is_a_png_of_900_by_750(points: int, e_value: float) -> None:
    walked = tuple(
        Point(
            index=index,
            at=NOON + timedelta(seconds=10 * index),
            weight=5,
            challenger=Counts(requests=index),
            e_value=e_value,
        )
        for index in range(points)
    )
    drawn = draw_rollout(an_exposed_rollout(points=walked), title="chat: v6 → v7")
    assert drawn.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", drawn[16:24]) == (900, 750)
