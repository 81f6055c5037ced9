"""What a RayService's status means, state by state."""

from typing import Any

import pytest

from deploy_targets.ray_serve.status import read_ray_service
from deploy_targets.target import Readiness, Revision

READY, STARTING, FAILED = Readiness.READY, Readiness.STARTING, Readiness.FAILED


def an_application(status: str = "RUNNING", deployment: str = "HEALTHY", **said: str) -> Any:
    llm = {"status": deployment, **said}
    return {"chat": {"status": status, "serveDeploymentStatuses": {"llm": llm}}}


def a_service(**status: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "reason": "NonZeroServeEndpoints"}
    whole = {
        "observedGeneration": 2,
        "numServeEndpoints": 1,
        "conditions": [ready],
        "activeServiceStatus": {"applicationStatuses": an_application()},
        **status,
    }
    return {"metadata": {"name": "chat-v7", "generation": 2}, "status": whole}


def read(service: dict[str, Any], *pods: Any) -> Revision:
    return read_ray_service(service, pods, version="7")


NOT_READY = {"type": "Ready", "status": "False", "reason": "ZeroServeEndpoints"}
QUOTA = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}


BROKEN = an_application("DEPLOY_FAILED", "DEPLOY_FAILED", message="no such tensor")


def active(applications: Any) -> dict[str, Any]:
    return {"activeServiceStatus": {"applicationStatuses": applications}}


@pytest.mark.parametrize(
    ("service", "readiness", "reason"),
    [
        (a_service(), READY, ""),
        (a_service(**active(an_application(deployment="UPSCALING"))), READY, ""),
        (a_service(**active(an_application(deployment="DOWNSCALING"))), READY, ""),
        ({"metadata": {"generation": 1}}, STARTING, "KubeRay has not taken the object up"),
        (a_service(observedGeneration=1), STARTING, "KubeRay has not taken the object up"),
        (a_service(conditions=[NOT_READY]), STARTING, "KubeRay: ZeroServeEndpoints"),
        (a_service(numServeEndpoints=0), STARTING, "no pod of it takes requests"),
        (a_service(activeServiceStatus={}), STARTING, "Ray has no application"),
        (
            a_service(**active(an_application("DEPLOYING", "UPDATING"))),
            STARTING,
            "application chat is DEPLOYING",
        ),
        (
            a_service(**active(an_application(deployment="UNHEALTHY", message="it died"))),
            STARTING,
            "deployment llm is UNHEALTHY: it died",
        ),
        (
            a_service(
                conditions=[NOT_READY],
                pendingServiceStatus={"applicationStatuses": BROKEN},
            ),
            FAILED,
            "Ray could not deploy llm: no such tensor",
        ),
        (a_service(pendingServiceStatus={"applicationStatuses": BROKEN}), READY, ""),
        (
            a_service(
                conditions=[NOT_READY],
                pendingServiceStatus={"rayClusterStatus": {"conditions": [QUOTA]}},
            ),
            STARTING,
            "a quota is used up: exceeded quota: gpus",
        ),
    ],
)
def test_a_state_has_one_meaning(
    service: dict[str, Any], readiness: Readiness, reason: str
) -> None:
    revision = read(service)

    assert (revision.version, revision.readiness) == ("7", readiness)
    assert reason in revision.reason
    assert bool(revision.reason) == bool(reason)


def test_a_pod_that_cannot_run_is_the_reason_whatever_ray_says() -> None:
    message = "1 Insufficient nvidia.com/gpu"
    unscheduled = {"type": "PodScheduled", "status": "False", "message": message}
    pod = {"metadata": {"name": "worker"}, "status": {"conditions": [unscheduled]}}

    assert "no node has a free GPU" in read(a_service(conditions=[NOT_READY]), pod).reason
    assert read(a_service(), pod).reason == ""


def test_only_the_end_of_a_long_message_is_told() -> None:
    long = "x" * 5000 + "ValueError: the digest differs"
    failed = an_application("DEPLOY_FAILED", "DEPLOY_FAILED", message=long)

    reason = read(a_service(**active(failed))).reason

    assert reason.endswith("the digest differs")
    assert len(reason) < 600


def test_restarts_of_its_containers_are_counted() -> None:
    status = {"containerStatuses": [{"name": "ray-worker", "restartCount": 2}]}

    assert read(a_service(), {"metadata": {"name": "w"}, "status": status}).restarts == 2
