"""What a RayService says about the version that it runs. Pure.

By the applications and their deployments, and KubeRay's own Ready for this generation of the object. An application that
Ray failed to deploy stays so until its configuration changes; everything else may still come up. Of a replica that Ray
starts anew inside its pod the object tells nothing but the deployment's state meanwhile.
"""

from collections.abc import Iterable, Sequence

from deploy_targets.manifest import Object, part
from deploy_targets.pod_status import condition, count_restarts, explain_pods, explain_refusal
from deploy_targets.target import Readiness, Revision

_SERVES = {"HEALTHY", "UPSCALING", "DOWNSCALING"}
"""Of a deployment: it answers. The last two are the autoscaler at work."""
_LONGEST = 500
"""Characters of what Ray says; the end of a traceback is what tells."""


def read_ray_service(service: Object, pods: Sequence[Object], *, version: str) -> Revision:
    """The revision as it stands; `pods` are those of its Ray cluster, head and workers."""
    status = part(service, "status")
    clusters = [part(status, name) for name in ("activeServiceStatus", "pendingServiceStatus")]
    readiness, reason = _readiness(service, clusters)
    if readiness is not Readiness.READY:
        # A pod that cannot run is the cause of whatever Ray says about it.
        reason = _explain_clusters(clusters) or explain_pods(pods) or reason
    return Revision(
        version=version, readiness=readiness, reason=reason, restarts=count_restarts(pods)
    )


def _readiness(service: Object, clusters: Sequence[Object]) -> tuple[Readiness, str]:
    status, generation = part(service, "status"), service["metadata"].get("generation", 0)
    if status.get("observedGeneration", 0) < generation:
        return Readiness.STARTING, "KubeRay has not taken the object up yet; is it running?"
    missing = _missing(service, clusters[0])
    if not missing:
        # A cluster that KubeRay prepares beside it, and that fails, costs nobody an answer.
        return Readiness.READY, ""
    failed = next((told for told in map(_failure, clusters) if told), "")
    return (Readiness.FAILED, failed) if failed else (Readiness.STARTING, missing)


def _missing(service: Object, active: Object) -> str:
    """What it lacks to answer; empty where it lacks nothing."""
    ready = condition(service, "Ready")
    if ready.get("status") != "True":
        said = ready.get("message") or ready.get("reason") or "it is starting"
        return f"KubeRay: {said}"
    if not int(part(service, "status").get("numServeEndpoints", 0)):
        return "no pod of it takes requests yet"
    applications = part(active, "applicationStatuses")
    if not applications:
        return "Ray has no application yet"
    for name, application in applications.items():
        if application.get("status") != "RUNNING":
            return f"application {name} is {application.get('status')}{_last(application.get('message'))}"
        for deployment, one in _deployments(application):
            if one.get("status") not in _SERVES:
                return f"deployment {deployment} is {one.get('status')}{_last(one.get('message'))}"
    return ""


def _failure(cluster: Object) -> str:
    """What Ray gave up, and why: the deployment's own message, which ends with what its constructor raised."""
    applications = part(cluster, "applicationStatuses")
    for name, application in applications.items():
        for deployment, one in _deployments(application):
            if one.get("status") == "DEPLOY_FAILED":
                return f"Ray could not deploy {deployment}{_last(one.get('message'))}"
        if application.get("status") == "DEPLOY_FAILED":
            return f"Ray could not deploy {name}{_last(application.get('message'))}"
    return ""


def _explain_clusters(clusters: Iterable[Object]) -> str:
    """Pods that KubeRay was not allowed to create."""
    for cluster in clusters:
        failure = condition({"status": part(cluster, "rayClusterStatus")}, "ReplicaFailure")
        if failure.get("status") == "True":
            return explain_refusal(str(failure.get("message") or failure.get("reason")))
    return ""


def _deployments(application: Object) -> Iterable[tuple[str, Object]]:
    return part(application, "serveDeploymentStatuses").items()


def _last(message: object) -> str:
    return f": {str(message)[-_LONGEST:]}" if message else ""
