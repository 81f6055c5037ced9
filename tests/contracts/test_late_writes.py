"""A write whose answer is lost is sent again, perhaps after somebody else has decided: then it must change nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy_targets.cluster import Cluster
from deploy_targets.routing.traffic import Traffic
from deploy_targets.target import Target
from registry.errors import TargetChanged
from tests.builders import a_release
from tests.contracts.cluster_stage import WAYS, ClusterStage


class Late(Cluster):
    """The first write that is no dry run gets no answer; before it is sent again, `meanwhile` happens."""

    def __init__(self, api: Any, meanwhile: Callable[[], None], *, is_carried_out: bool) -> None:
        super().__init__(api, sleep=lambda _: meanwhile(), jitter=lambda: 0.0)
        self._is_carried_out = is_carried_out
        self._is_lost = False

    def _ask_once(self, method: str, path: str, query: Any, body: Any) -> Any:
        if method != "PATCH" or "dryRun" in query or self._is_lost:
            return super()._ask_once(method, path, query, body)
        self._is_lost = True
        if self._is_carried_out:
            super()._ask_once(method, path, query, body)
        return "ReadTimeoutError: timed out"


@pytest.fixture
def stage(request: Any, cluster: Any, tmp_path: Path) -> ClusterStage:
    stage = ClusterStage(request.param, cluster, tmp_path)
    stage.release("6")
    stage.reach("7", 5)
    return stage


on = pytest.mark.parametrize


def late(stage: ClusterStage, meanwhile: Callable[[], None], *, done: bool = False) -> Target:
    _, make, _ = WAYS[stage.way]
    target = make(stage.endpoint, Late(stage.api, meanwhile, is_carried_out=done))
    target.observe()
    return target


@on("stage", ["ray-serve", "standard", "knative"], indirect=True)
def test_a_step_that_arrives_after_a_rollback_is_never_taken(stage: ClusterStage) -> None:
    """Whoever sent it lost the Lease while it waited."""
    paused = late(stage, lambda: stage.target.shift(Traffic.all_to("6")))

    with pytest.raises(TargetChanged):
        paused.shift(Traffic.split("6", "7", 25))

    stage.settle()
    assert stage.target.observe().traffic == Traffic.all_to("6")


@on("stage", ["ray-serve"], indirect=True)
def test_whatever_writes_the_route_late_leaves_the_weights_of_a_rollback(
    stage: ClusterStage,
) -> None:
    """An apply, too, writes the route with the weights that it saw."""

    paused = late(stage, lambda: stage.target.shift(Traffic.all_to("6")))
    with pytest.raises(TargetChanged):
        paused.apply(a_release("8"))

    assert stage.target.observe().traffic == Traffic.all_to("6")


@on("stage", ["ray-serve", "knative"], indirect=True)
def test_a_step_that_was_taken_though_its_answer_was_lost_is_seen_at_the_next_look(
    stage: ClusterStage,
) -> None:
    unsure = late(stage, lambda: None, done=True)

    with pytest.raises(TargetChanged):
        unsure.shift(Traffic.split("6", "7", 25))

    stage.settle()
    assert unsure.observe().traffic.percent("7") == 25
    unsure.shift(Traffic.split("6", "7", 50))


@on("stage", ["ray-serve"], indirect=True)
def test_a_step_that_did_not_arrive_is_taken_by_the_next_attempt(stage: ClusterStage) -> None:
    unsure = late(stage, lambda: None)

    unsure.shift(Traffic.split("6", "7", 25))

    assert stage.target.observe().traffic.percent("7") == 25
