"""The picture of a rollout can be drawn at any moment of it, here and in a process of its own."""

import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from deploy_targets.rollout.picture import draw_rollout
from deploy_targets.rollout.picture_process import PictureProcess
from deploy_targets.rollout.state import Counts, Point, Reading, RolloutState
from registry.errors import PictureFailed
from tests.builders import NOON, a_ray_endpoint, an_exposed_rollout


def a_rollout(points: int, *, e_value: float = 1.0) -> RolloutState:
    """Half of its challenger's answers were bad; of latency nothing is known."""
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
    return an_exposed_rollout(points=walked)


@pytest.mark.parametrize("points", [0, 1, 50])
@pytest.mark.parametrize("e_value", [1.0, 1e300])
def test_a_rollout_of_any_length_is_a_png_of_900_by_1000(points: int, e_value: float) -> None:
    drawn = draw_rollout(a_rollout(points, e_value=e_value), title="chat: v6 → v7")
    assert drawn.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", drawn[16:24]) == (900, 1000)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for Python until something is written to this pipe, and draws that."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexec cat {pipe}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return pipe


def test_another_process_draws_the_same_picture() -> None:
    rollout, title = a_rollout(20, e_value=1e300), "chat: v6 → v7"
    assert PictureProcess().draw(rollout, title=title) == draw_rollout(rollout, title=title)


def test_a_rollout_of_any_kind_of_endpoint_is_drawn() -> None:
    rollout = replace(a_rollout(2), declared=a_ray_endpoint(engine={"kind": "vllm"}))
    assert PictureProcess().draw(rollout, title="chat") is not None


def test_one_is_drawn_at_a_time_and_nobody_waits(slow: Path) -> None:
    pictures = PictureProcess()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pictures.draw, a_rollout(1), title="chat")
        with slow.open("wb") as file:  # opens once it is read
            assert pictures.draw(a_rollout(1), title="other") is None
            file.write(b"drawn")
        assert first.result() == b"drawn"


def test_one_that_is_ended_with_its_controller_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -TERM $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert PictureProcess().draw(a_rollout(1), title="chat") is None


def test_a_process_that_fails_says_why_and_the_next_one_is_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = PictureProcess()
    for program, why in (("/bin/false", "exit status 1"), ("/no/such/python", "No such file")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            with pytest.raises(PictureFailed, match=why):
                pictures.draw(a_rollout(1), title="chat")
    assert pictures.draw(a_rollout(1), title="chat") is not None
