"""One alert, as a rule of Prometheus and as a section of the runbook. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy_targets.monitoring.limits import Severity

RUNBOOK = "docs/runbook.md"
OF_A_VERSION = "version {{ $labels.version }} of endpoint {{ $labels.endpoint }}"
"""Of whom an alert about one version speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert, with what it tells people."""

    name: str
    expr: str
    lasts: str = "5m"
    """How long it holds before the alert fires."""
    severity: Severity
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def runbook(self) -> str:
        """The section of the runbook that says what to do, relative to the project's root."""
        return f"{RUNBOOK}#{self.name.lower()}"

    def rule(self) -> dict[str, Any]:
        """The alert as an entry of a rule group."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": str(self.severity), **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": self.runbook,
            },
        }
