"""What keeps pods from running, in words and with what to do about it. Pure.

Kubernetes never gives a pod up: it pulls again, schedules again, restarts again. So nothing here is a failure for good;
the rollout's own `warm_limit_s` ends the waiting, and the reason from here is what it then tells.
"""

from collections.abc import Iterable

from deploy_targets.manifest import Object, part, parts

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_GPU = "nvidia.com/gpu"


def is_live(found: Object) -> bool:
    """Whether the object is there to stay: one that is being deleted counts as gone."""
    return "deletionTimestamp" not in found["metadata"]


def condition(found: Object, kind: str) -> Object:
    """The status condition of that type; empty where it was never set."""
    conditions = parts(part(found, "status"), "conditions")
    nothing: Object = {}
    return next((one for one in conditions if one.get("type") == kind), nothing)


def count_restarts(pods: Iterable[Object]) -> int:
    """How often a container of these pods had to be started again. A pod that was replaced takes its count along."""
    return sum(int(status.get("restartCount", 0)) for pod in pods for status in _containers(pod))


def explain_pods(pods: Iterable[Object]) -> str:
    """The first thing that keeps one of these pods from running, and what to do; empty where nothing does."""
    return next((told for pod in pods if (told := _explain(pod))), "")


def explain_deployment(deployment: Object) -> str:
    """Why a Deployment has fewer pods than it wants: a quota, or a policy that refuses them; empty where it has them."""
    failure = condition(deployment, "ReplicaFailure")
    if failure.get("status") != "True":
        return ""
    return explain_refusal(str(failure.get("message", failure.get("reason", ""))))


def explain_refusal(told: str) -> str:
    """What to do about pods that the API server would not create."""
    if "exceeded quota" in told:
        return f"a quota is used up: {told}. Raise the ResourceQuota, or retire what is not needed."
    return f"its pods are refused: {told}. Mend what refuses them, or the endpoint file."


def _containers(pod: Object) -> tuple[Object, ...]:
    status = part(pod, "status")
    return parts(status, "initContainerStatuses") + parts(status, "containerStatuses")


def _explain(pod: Object) -> str:
    name = pod["metadata"]["name"]
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        told = str(scheduled.get("message", scheduled.get("reason", "")))
        if f"Insufficient {_GPU}" in told:
            return (
                f"no node has a free GPU for pod {name}: {told}. Add a node with {_GPU}, or retire what holds one; "
                "during a canary both versions need theirs."
            )
        return f"no node takes pod {name}: {told}. Add a node, or ask for less in resources."
    return next((told for one in _containers(pod) if (told := _explain_container(name, one))), "")


def _explain_container(pod: str, status: Object) -> str:
    waiting = part(status, "state", "waiting")
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _IMAGE_REASONS:
        return (
            f"image {status.get('image')} of pod {pod} cannot be pulled ({reason}): {message}. Check the image's name, "
            "and the pull secret of the ServiceAccount."
        )
    ended = _end(status)
    if ended is None:
        return f"pod {pod} does not start ({reason}): {message}" if "Error" in reason else ""
    restarts = status.get("restartCount", 0)
    if ended.get("reason") == "OOMKilled":
        return (
            f"pod {pod} ran out of memory while it loaded (OOMKilled, {restarts} restarts). Raise resources.memory_gib, "
            "or take a smaller model."
        )
    return (
        f"container {status.get('name')} of pod {pod} ended with code {ended.get('exitCode')} ({restarts} restarts). "
        f"See `kubectl logs --previous {pod}`."
    )


def _end(status: Object) -> Object | None:
    """How a container that does not run now ended last; None where it runs, or never ended."""
    if part(status, "state", "running") and status.get("ready", False):
        return None
    now = part(status, "state", "terminated")
    if now:
        return now if now.get("exitCode") else None
    return part(status, "lastState", "terminated") or None
