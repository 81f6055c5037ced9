"""The picture of a rollout can be drawn at any moment of it."""

import struct
from datetime import timedelta

import pytest

from deploy_targets.rollout.picture import draw_rollout
from deploy_targets.rollout.state import Counts, Point, Reading
from tests.builders import NOON, an_exposed_rollout


@pytest.mark.parametrize("points", [0, 1, 50])
@pytest.mark.parametrize("e_value", [1.0, 1e300])
def test_a_rollout_of_any_length_is_a_png_of_900_by_1000(points: int, e_value: float) -> None:
    walked = tuple(
        Point(
            index=index,
            at=NOON + timedelta(seconds=10 * index),
            weight=5,
            challenger=Counts(requests=index, judged=index, bad=index // 2),
            readings=(
                Reading(metric="errors", e_value=e_value, bound=200.0, low=-0.01, high=0.2),
                Reading(metric="latency", e_value=1.0, bound=200.0, low=None, high=None),
            ),
        )
        for index in range(points)
    )
    drawn = draw_rollout(an_exposed_rollout(points=walked), title="chat: v6 → v7")
    assert drawn.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", drawn[16:24]) == (900, 1000)
