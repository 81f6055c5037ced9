"""A schedule as KubeRay's RayCronJob, each of whose RayJobs runs `mlflow run` on Ray. Pure.

A RayJob gets a cluster of its own, which ends with it, or goes to one that is there. KubeRay 1.7 wants its feature gate
RayCronJob for this kind, which knows neither what to do when runs overlap nor when a late one is too late: a schedule that
says so is refused, not rendered into something that would not obey.
"""

import re
import shlex
from collections.abc import Iterable
from typing import Any

import yaml

from pipelines.backend.request import STOP_WAIT_S
from pipelines.schedule.cronjob import (
    ACCOUNT,
    NAMESPACE,
    SECURITY,
    STATE,
    labels,
    pod_spec,
    render_account,
    schedule_labels,
    yaml_stream,
)
from pipelines.schedule.declared import Overlap, Schedule, experiment_of
from registry.errors import BadInput, ManifestInvalid

IMAGE = "shipway-ray"
RAY_VERSION = "2.60.0"
"""Of the image."""
MAX_NAME = 36
"""KubeRay's RayJobs have 47 characters at most, and one of a schedule has up to eleven more than the schedule."""
PROJECT = "/home/shipway/project"
"""The WORKDIR of the image."""
_CLUSTER = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_KEPT_S = 3600
"""An ended cluster stays for an hour, with its log."""
_DASHBOARD = 8265


def render(schedules: Iterable[Schedule], *, cluster: str | None = None) -> str:
    """All of them as one YAML stream, on the RayCluster of that name or each on its own.

    Raises:
        BadInput: a schedule asks for what KubeRay does not know.
        ManifestInvalid: a name that KubeRay would refuse.
    """
    jobs = [render_raycronjob(schedule, cluster=cluster) for schedule in schedules]
    around = [] if cluster is not None else [render_account(), _network_policy()]
    return yaml_stream([*around, *jobs])


def render_raycronjob(schedule: Schedule, *, cluster: str | None = None) -> dict[str, Any]:
    """Its RayCronJob. One that is not enabled is suspended, so that an apply takes it out of service.

    Raises:
        BadInput, ManifestInvalid: see `render`.
    """
    _check(schedule, cluster)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {
            "name": schedule.name,
            "namespace": NAMESPACE,
            "labels": schedule_labels(schedule),
        },
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone,
            "suspend": not schedule.enabled,
            "jobTemplate": _job(schedule, cluster),
        },
    }


def _check(schedule: Schedule, cluster: str | None) -> None:
    if schedule.overlap is not Overlap.ALLOW:
        message = (
            f"{schedule.name}: KubeRay starts a scheduled job whether or not an earlier one still runs. Say overlap: allow, or "
            f"render CronJobs (--backend kubernetes), which can {schedule.overlap}."
        )
        raise BadInput(message)
    if "starting_deadline_s" in schedule.model_fields_set:
        message = (
            f"{schedule.name}: KubeRay starts a scheduled job however late it is. Leave starting_deadline_s out, or render "
            "CronJobs (--backend kubernetes)."
        )
        raise BadInput(message)
    if len(schedule.name) > MAX_NAME or not schedule.name[0].isalpha():
        message = f"{schedule.name!r} must have {MAX_NAME} characters at most and begin with a letter, for KubeRay's names."
        raise ManifestInvalid(message)
    if cluster is not None and not _CLUSTER.fullmatch(cluster):
        message = f"{cluster!r} cannot name a RayCluster."
        raise ManifestInvalid(message)


def _job(schedule: Schedule, cluster: str | None) -> dict[str, Any]:
    words = ("mlflow", "run", PROJECT, "--env-manager", "local", *schedule.words())
    variables = {
        "MLFLOW_EXPERIMENT_NAME": experiment_of(schedule.name),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
    }
    where = (
        {
            "rayClusterSpec": _cluster(schedule),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEPT_S,
        }
        if cluster is None
        else {"clusterSelector": {"ray.io/cluster": cluster}}
    )
    return {
        # Without a pod of its own that submits: the operator asks the dashboard.
        "submissionMode": "HTTPMode",
        "entrypoint": shlex.join(words),
        "entrypointNumCpus": schedule.resources.cpus,
        "entrypointNumGpus": schedule.resources.gpus,
        "runtimeEnvYAML": yaml.safe_dump({"env_vars": variables}),
        # A run that failed is not tried again by itself.
        "backoffLimit": 0,
        **where,
    }


def _cluster(schedule: Schedule) -> dict[str, Any]:
    """One pod: an entry point is one process, and nothing of it runs elsewhere."""
    container = {
        "name": "ray-head",
        "image": IMAGE,
        "env": [{"name": "SHIPWAY_HOME", "value": STATE}],
        # The root is not read-only, as in the engine's pods: what is started here is KubeRay's to say.
        "securityContext": {k: v for k, v in SECURITY.items() if k != "readOnlyRootFilesystem"},
    }
    pod = pod_spec(schedule, container)
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            # The operator asks from outside the pod; the token and the NetworkPolicy guard it.
            "rayStartParams": {"dashboard-host": "0.0.0.0"},  # noqa: S104 - as said
            "template": {"metadata": {"labels": schedule_labels(schedule)}, "spec": pod},
        },
    }


def _network_policy() -> dict[str, Any]:
    """Only KubeRay reaches the pods, and only their dashboard."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": ACCOUNT, "namespace": NAMESPACE, "labels": labels()},
        "spec": {
            "podSelector": {"matchLabels": labels()},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [
                        {
                            "namespaceSelector": {},
                            "podSelector": {
                                "matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}
                            },
                        }
                    ],
                    "ports": [{"protocol": "TCP", "port": _DASHBOARD}],
                }
            ],
        },
    }
