"""What the Prometheus Operator takes: the rules, and where to find the guards and the controller. Pure.

The operator gives every target a label `endpoint`, the port's name, which would push the guard's own label of that name
aside. The PodMonitor therefore sets it from the pod's label, and lets the guard's labels win. The controller's is dropped:
its own labels name endpoints, where they name any.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from deploy_targets.endpoint import Endpoint
from deploy_targets.manifest import INSTANCE_LABEL, Manifest
from deploy_targets.metrics import ENDPOINT
from deploy_targets.monitoring.rules import rule_groups

NAME = "llm-monitoring"
PART_OF = {"app.kubernetes.io/part-of": "shipway"}
GUARD_POD_LABELS = {**PART_OF, "app.kubernetes.io/component": "guard"}
"""What the pods of a guard carry, beside the label of their endpoint, and by which they are found."""
CONTROLLER_NAME = "shipway-controller"
CONTROLLER_POD_LABELS = {**PART_OF, "app.kubernetes.io/component": "controller"}
CONTROLLER_PORT = "hooks"
"""Its container port, which has the metrics page too."""
METRICS_PORT, METRICS_PATH = "metrics", "/metrics"
"""The container port's name (SHIPWAY_GUARD_ADMIN_PORT), and the page there."""
_SCRAPE_INTERVAL = "15s"
"""Twenty readings in the shortest window."""


def monitoring_manifests(endpoints: Iterable[Endpoint]) -> tuple[Manifest, ...]:
    """The PrometheusRule and the guards' PodMonitor for all endpoints; nothing where none is on Kubernetes.

    The controller's PodMonitor belongs to where that is installed.
    """
    if all(endpoint.target.is_local for endpoint in endpoints):
        return ()
    return prometheus_rule(), pod_monitor()


def prometheus_rule() -> Manifest:
    """The recording rules and alerts."""
    return _object("PrometheusRule", NAME, rule_groups())


def pod_monitor() -> Manifest:
    """Scrapes every guard in its own namespace."""
    label = INSTANCE_LABEL.replace(".", "_").replace("/", "_").replace("-", "_")
    source = f"__meta_kubernetes_pod_label_{label}"
    relabeling = {"sourceLabels": [source], "targetLabel": ENDPOINT}
    return _object("PodMonitor", NAME, _pods(GUARD_POD_LABELS, METRICS_PORT, relabeling))


def controller_pod_monitor() -> Manifest:
    """Scrapes every controller in its own namespace."""
    relabeling = {"regex": ENDPOINT, "action": "labeldrop"}
    spec = _pods(CONTROLLER_POD_LABELS, CONTROLLER_PORT, relabeling)
    return _object("PodMonitor", CONTROLLER_NAME, spec)


def _pods(labels: Mapping[str, str], port: str, relabeling: Mapping[str, Any]) -> dict[str, Any]:
    metrics_page = {
        "port": port,
        "path": METRICS_PATH,
        "interval": _SCRAPE_INTERVAL,
        "honorLabels": True,
        "relabelings": [relabeling],
    }
    return {"selector": {"matchLabels": labels}, "podMetricsEndpoints": [metrics_page]}


def _object(kind: str, name: str, spec: Mapping[str, Any]) -> Manifest:
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": PART_OF},
        "spec": spec,
    }
    return Manifest(name=f"{name}.{kind.lower()}", body=body)
