"""The Grafana dashboard of one endpoint, its versions side by side: what alerts fire on, seen over time. Pure.

It is built with Grafana's own typed SDK from the recorded series and the thresholds of the alerts, so a number in an
alert's text is a line in a picture. Which Prometheus and which endpoint is chosen at the top of the page.
"""

import json

from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, VariableRefresh

from deploy_targets.metrics import ENDPOINT, REQUESTS
from deploy_targets.monitoring import limits, recordings
from deploy_targets.monitoring.guard_panels import guard_panels
from deploy_targets.monitoring.panels import CHOSEN, EACH_VERSION, SOURCE, panel


def dashboard_json() -> str:
    """The dashboard as a file that Grafana 10 and later import."""
    rate = recordings.REQUEST_RATE.record + CHOSEN
    total = f"sum by ({ENDPOINT}) ({rate})"
    budget = {
        f"last {window}": recordings.endpoint_error_ratio(window).record + CHOSEN
        for window in (burn.long for burn in limits.BURN_RATES)
    }
    panels = (
        panel("Requests", "reqps", {EACH_VERSION: rate}),
        panel(
            "Share of requests",
            "percentunit",
            {EACH_VERSION: f"{rate} / on ({ENDPOINT}) group_left () ({total} > 0)"},
            about="The canary weight as clients meet it. `shipway status` has the weight that was asked for.",
        ).max(1),
        panel(
            "Failed requests",
            "percentunit",
            {EACH_VERSION: recordings.ERROR_RATIO.record + CHOSEN},
            limit=limits.ERROR_RATIO,
            about="The line is where HighErrorRate begins.",
        ),
        panel("Half of the answers within", "s", {EACH_VERSION: recordings.P50.record + CHOSEN}),
        panel(
            "95 % of the answers within",
            "s",
            {EACH_VERSION: recordings.P95.record + CHOSEN},
            limit=limits.P95_LATENCY_S,
            about="The line is where HighTailLatency begins.",
        ),
        panel("99 % of the answers within", "s", {EACH_VERSION: recordings.P99.record + CHOSEN}),
        panel(
            "Mean time of an answer",
            "s",
            {EACH_VERSION: recordings.MEAN_LATENCY.record + CHOSEN},
            limit=limits.MEAN_LATENCY_S,
            about="The line is where HighLatency begins.",
        ),
        panel(
            "Failed requests of the endpoint",
            "percentunit",
            budget,
            limit=limits.ERROR_BUDGET,
            about="All versions together, without those that a second try has answered. The line is the error budget: what may fail over 30 days.",
        ),
        *guard_panels(),
    )
    dashboard = (
        Dashboard("LLM endpoint")
        .uid("shipway-endpoint")
        .description(
            "Requests, failures, latency, tokens and cost of an endpoint, by version. Made by Shipway."
        )
        .tags(["shipway"])
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("endpoint")
            .label("Endpoint")
            .datasource(SOURCE)
            .query(f"label_values({REQUESTS.name}, {ENDPOINT})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )
    for number, one in enumerate(panels, start=1):
        dashboard = dashboard.with_panel(one.id(number))
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=1) + "\n"
