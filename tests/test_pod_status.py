"""What is said about pods that do not run, one cause each."""

from typing import Any

import pytest

from deploy_targets.pod_status import (
    condition,
    count_restarts,
    explain_deployment,
    explain_pods,
    is_live,
)


def a_pod(*containers: dict[str, Any], conditions: Any = (), init: Any = ()) -> dict[str, Any]:
    status = {
        "conditions": list(conditions),
        "containerStatuses": list(containers),
        "initContainerStatuses": list(init),
    }
    return {"metadata": {"name": "chat-v7-0"}, "status": status}


def a_container(**changes: Any) -> dict[str, Any]:
    return {"name": "engine", "image": "engine:1", "restartCount": 0, "ready": False, **changes}


def waiting(reason: str, message: str = "", **changes: Any) -> dict[str, Any]:
    return a_container(state={"waiting": {"reason": reason, "message": message}}, **changes)


def ended(reason: str, code: int) -> dict[str, Any]:
    return {"terminated": {"reason": reason, "exitCode": code}}


RUNNING = a_container(ready=True, state={"running": {"startedAt": "x"}})
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (
            a_pod(waiting("ImagePullBackOff", "no such tag")),
            "image engine:1 of pod chat-v7-0 cannot be pulled (ImagePullBackOff): no such tag",
        ),
        (a_pod(waiting("InvalidImageName")), "cannot be pulled (InvalidImageName)"),
        (
            a_pod(waiting("CrashLoopBackOff", restartCount=3, lastState=ended("OOMKilled", 137))),
            "ran out of memory while it loaded (OOMKilled, 3 restarts). Raise resources.memory_gib",
        ),
        (a_pod(a_container(state=ended("OOMKilled", 137))), "ran out of memory"),
        (
            a_pod(waiting("CrashLoopBackOff", restartCount=2, lastState=ended("Error", 1))),
            "ended with code 1 (2 restarts). See `kubectl logs --previous chat-v7-0`",
        ),
        (a_pod(init=[a_container(name="storage", state=ended("Error", 7))]), "container storage"),
        (
            a_pod(waiting("CreateContainerConfigError", 'secret "s3" not found')),
            'does not start (CreateContainerConfigError): secret "s3" not found',
        ),
        (
            a_pod(conditions=[{**UNSCHEDULED, "message": "3 Insufficient nvidia.com/gpu."}]),
            "no node has a free GPU for pod chat-v7-0: 3 Insufficient nvidia.com/gpu.",
        ),
        (
            a_pod(conditions=[{**UNSCHEDULED, "message": "3 Insufficient memory."}]),
            "no node takes pod chat-v7-0: 3 Insufficient memory.",
        ),
    ],
)
def test_each_cause_is_named_with_what_to_do(pod: dict[str, Any], words: str) -> None:
    assert words in explain_pods([a_pod(RUNNING), pod])


@pytest.mark.parametrize(
    "pod",
    [
        a_pod(RUNNING),
        a_pod(waiting("ContainerCreating")),
        a_pod(init=[a_container(state=ended("Completed", 0))]),
        a_pod({**RUNNING, "restartCount": 1, "lastState": ended("OOMKilled", 137)}),
        {"metadata": {"name": "new"}},
    ],
    ids=["running", "being made", "initialised", "up again after a crash", "without a status"],
)
def test_a_pod_that_is_well_or_on_its_way_has_no_cause(pod: dict[str, Any]) -> None:
    assert explain_pods([pod]) == ""


def test_restarts_are_those_of_all_containers_of_all_pods() -> None:
    one = a_pod({**RUNNING, "restartCount": 2}, init=[a_container(restartCount=1)])

    assert count_restarts([one, a_pod(), {**one}]) == 6


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('pods "x" is forbidden: exceeded quota: gpus', "Raise the ResourceQuota"),
        ("violates PodSecurity", "its pods are refused: violates PodSecurity"),
    ],
)
def test_pods_that_may_not_be_made_are_told_by_their_deployment(message: str, words: str) -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": message}

    assert words in explain_deployment({"status": {"conditions": [failure]}})
    assert explain_deployment({"status": {"conditions": [{**failure, "status": "False"}]}}) == ""
    assert explain_deployment({}) == ""


def test_an_object_that_is_being_deleted_is_gone() -> None:
    assert is_live({"metadata": {"name": "x"}})
    assert not is_live({"metadata": {"name": "x", "deletionTimestamp": "2026-11-24T12:00:00Z"}})


def test_a_condition_that_was_never_set_is_empty() -> None:
    assert condition({"status": {"conditions": None}}, "Ready") == {}
