"""A schedule as Kubernetes' CronJob, which runs `mlflow run` in the pipeline's image. Pure.

Names, labels and security are those of `deploy_targets.install`: kustomize's `images` gives the image a registry and a tag,
and the Secret has MLflow's and S3's addresses and credentials.
"""

import math
from collections.abc import Iterable
from typing import Any

import yaml

from pipelines.schedule.declared import Resources, Schedule

NAMESPACE = "shipway"
IMAGE = "shipway-pipeline"
ACCOUNT = "shipway-pipeline"
SECRET = "shipway-pipeline"  # noqa: S105 - the name of one
_STATE = "/home/shipway/state"
_UNPRIVILEGED = 10001
"""The USER of the image."""
_CONTEXT = {
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
    metadata = {"name": ACCOUNT, "namespace": NAMESPACE, "labels": _labels()}
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata,
        "automountServiceAccountToken": False,
    }


def render_cronjob(schedule: Schedule) -> dict[str, Any]:
    """Its CronJob. One that is not enabled is suspended, so that an apply takes it out of service."""
    labels = {**_labels(), SCHEDULE_LABEL: schedule.name}
    pod = {"metadata": {"labels": labels}, "spec": _pod(schedule)}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": schedule.name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.time_zone,
            "concurrencyPolicy": schedule.overlap.capitalize(),
            "startingDeadlineSeconds": schedule.starting_deadline_s,
            "suspend": not schedule.enabled,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": labels},
                # A run that failed is not tried again by itself.
                "spec": {"backoffLimit": 0, "template": pod},
            },
        },
    }


def render(schedules: Iterable[Schedule]) -> str:
    """All of them as one YAML stream, the service account first."""
    documents = [render_account(), *(render_cronjob(schedule) for schedule in schedules)]
    return yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120)


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "shipway", "app.kubernetes.io/component": "pipeline"}


def _pod(schedule: Schedule) -> dict[str, Any]:
    # The image's root is read-only but for these; MLflow keeps a copy of its settings in the home folder.
    folders = {"state": _STATE, "tmp": "/tmp"}  # noqa: S108 - a volume of its own
    sizes = {"state": _quantity(schedule.resources.disk_gib), "tmp": "8Gi"}
    given = _limits(schedule.resources)
    container = {
        "name": "pipeline",
        "image": IMAGE,
        "args": list(schedule.words()),
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - as above
            {"name": "SHIPWAY_HOME", "value": _STATE},
            {"name": "MLFLOW_EXPERIMENT_NAME", "value": f"shipway/schedules/{schedule.name}"},
            {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"},
        ],
        "envFrom": [{"secretRef": {"name": SECRET}}],
        "resources": {"requests": given, "limits": given},
        "securityContext": _CONTEXT,
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in folders.items()],
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # A stage that is told to end closes its runs first.
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UNPRIVILEGED,
            "runAsGroup": _UNPRIVILEGED,
            "fsGroup": _UNPRIVILEGED,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": name, "emptyDir": {"sizeLimit": size}} for name, size in sizes.items()
        ],
    }


def _limits(resources: Resources) -> dict[str, str]:
    given = {
        "cpu": f"{math.ceil(resources.cpus * 1000)}m",
        "memory": _quantity(resources.memory_gib),
    }
    return {**given, **({"nvidia.com/gpu": str(resources.gpus)} if resources.gpus else {})}


def _quantity(gib: float) -> str:
    return f"{int(gib)}Gi" if gib % 1 == 0 else f"{math.ceil(gib * 1024)}Mi"
