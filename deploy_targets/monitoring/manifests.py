"""What the Prometheus Operator takes: the rules, and where to find the guards. Pure.

The operator gives every target a label `endpoint`, the port's name, which would push the guard's own label of that name
aside. The PodMonitor therefore sets it from the pod's label, and lets the guard's labels win.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from deploy_targets.endpoint import Endpoint, TargetKind
from deploy_targets.manifest import Manifest
from deploy_targets.metrics import ENDPOINT
from deploy_targets.monitoring.rules import rule_groups

NAME = "llm-monitoring"
PART_OF = {"app.kubernetes.io/part-of": "shipway"}
GUARD_POD_LABELS = {**PART_OF, "app.kubernetes.io/component": "guard"}
"""What the pods of a guard carry, and by which they are found."""
ENDPOINT_POD_LABEL = "app.kubernetes.io/instance"
"""The label of a guard's pods that names their endpoint."""
METRICS_PORT, METRICS_PATH = "metrics", "/metrics"
"""The container port's name (SHIPWAY_GUARD_ADMIN_PORT), and the page there."""
_SCRAPE_INTERVAL = "15s"
"""Twenty readings in the shortest window."""


def monitoring_manifests(endpoints: Iterable[Endpoint]) -> tuple[Manifest, ...]:
    """The PrometheusRule and the PodMonitor, one of each for all endpoints; nothing where none is on Kubernetes."""
    if all(endpoint.target is TargetKind.LOCAL for endpoint in endpoints):
        return ()
    return prometheus_rule(), pod_monitor()


def prometheus_rule() -> Manifest:
    """The recording rules and alerts."""
    return _object("PrometheusRule", rule_groups())


def pod_monitor() -> Manifest:
    """Scrapes every guard in its own namespace."""
    label = ENDPOINT_POD_LABEL.replace(".", "_").replace("/", "_").replace("-", "_")
    metrics_page = {
        "port": METRICS_PORT,
        "path": METRICS_PATH,
        "interval": _SCRAPE_INTERVAL,
        "honorLabels": True,
        "relabelings": [
            {"sourceLabels": [f"__meta_kubernetes_pod_label_{label}"], "targetLabel": ENDPOINT}
        ],
    }
    spec = {"selector": {"matchLabels": GUARD_POD_LABELS}, "podMetricsEndpoints": [metrics_page]}
    return _object("PodMonitor", spec)


def _object(kind: str, spec: Mapping[str, Any]) -> Manifest:
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        "metadata": {"name": NAME, "labels": PART_OF},
        "spec": spec,
    }
    return Manifest(name=f"{NAME}.{kind.lower()}", body=body)
