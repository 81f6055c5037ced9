"""A schedule as Kubernetes' CronJob, which runs `mlflow run` in the pipeline's image. Pure.

Names, labels and security are those of `deploy_targets.install`: kustomize's `images` gives the image a registry and a tag,
and the Secret has MLflow's and S3's addresses and credentials.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from pipelines.schedule.declared import Resources, Schedule, experiment_of

NAMESPACE = "shipway"
IMAGE = "shipway-pipeline"
ACCOUNT = "shipway-pipeline"
SECRET = "shipway-pipeline"  # noqa: S105 - the name of one
STATE = "/home/shipway/state"
UNPRIVILEGED = 10001
"""The USER of the image."""
SECURITY = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
SCHEDULE_LABEL = "shipway.dev/schedule"


class _Plain(yaml.SafeDumper):
    """Without anchors, which nobody likes to read."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


def render_account() -> dict[str, Any]:
    """The service account of every run, which may do nothing in the cluster."""
    metadata = {"name": ACCOUNT, "namespace": NAMESPACE, "labels": labels()}
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata,
        "automountServiceAccountToken": False,
    }


def render_cronjob(schedule: Schedule) -> dict[str, Any]:
    """Its CronJob. One that is not enabled is suspended, so that an apply takes it out of service."""
    told = schedule_labels(schedule)
    container = {
        "name": "pipeline",
        "image": IMAGE,
        "args": list(schedule.words()),
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - a volume of its own
            {"name": "SHIPWAY_HOME", "value": STATE},
            {"name": "MLFLOW_EXPERIMENT_NAME", "value": experiment_of(schedule.name)},
            {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"},
        ],
        "securityContext": SECURITY,
    }
    # A stage that is told to end closes its runs first.
    ending = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 60}
    pod = {"metadata": {"labels": told}, "spec": {**ending, **pod_spec(schedule, container)}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": schedule.name, "namespace": NAMESPACE, "labels": told},
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone,
            "concurrencyPolicy": schedule.overlap.capitalize(),
            "startingDeadlineSeconds": schedule.starting_deadline_s,
            "suspend": not schedule.enabled,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": told},
                # A run that failed is not tried again by itself.
                "spec": {"backoffLimit": 0, "template": pod},
            },
        },
    }


def render(schedules: Iterable[Schedule]) -> str:
    """All of them as one YAML stream, the service account first."""
    return yaml_stream([render_account(), *(render_cronjob(schedule) for schedule in schedules)])


def yaml_stream(documents: Iterable[Mapping[str, Any]]) -> str:
    """Several documents in one text."""
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120)


def labels() -> dict[str, str]:
    """Of everything that a schedule makes."""
    return {"app.kubernetes.io/part-of": "shipway", "app.kubernetes.io/component": "pipeline"}


def schedule_labels(schedule: Schedule) -> dict[str, str]:
    """Of what belongs to this one."""
    return {**labels(), SCHEDULE_LABEL: schedule.name}


def pod_spec(schedule: Schedule, container: Mapping[str, Any]) -> dict[str, Any]:
    """A pod of the image with that one container, which gets the schedule's resources, the secret and two folders."""
    # The image's root may be read-only but for these; MLflow keeps a copy of its settings in the home folder.
    folders = {"state": STATE, "tmp": "/tmp"}  # noqa: S108 - a volume of its own
    sizes = {"state": _quantity(schedule.resources.disk_gib), "tmp": "8Gi"}
    given = _limits(schedule.resources)
    return {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UNPRIVILEGED,
            "runAsGroup": UNPRIVILEGED,
            "fsGroup": UNPRIVILEGED,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                **container,
                "envFrom": [{"secretRef": {"name": SECRET}}],
                "resources": {"requests": given, "limits": given},
                "volumeMounts": [
                    {"name": name, "mountPath": path} for name, path in folders.items()
                ],
            }
        ],
        "volumes": [
            {"name": name, "emptyDir": {"sizeLimit": size}} for name, size in sizes.items()
        ],
    }


def _limits(resources: Resources) -> dict[str, str]:
    """What a container asks for, and gets no more of."""
    given = {
        "cpu": f"{math.ceil(resources.cpus * 1000)}m",
        "memory": _quantity(resources.memory_gib),
    }
    return {**given, **({"nvidia.com/gpu": str(resources.gpus)} if resources.gpus else {})}


def _quantity(gib: float) -> str:
    """In Kubernetes' words."""
    return f"{int(gib)}Gi" if gib % 1 == 0 else f"{math.ceil(gib * 1024)}Mi"
