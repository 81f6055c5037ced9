"""The Grafana dashboard of one endpoint, its versions side by side: what alerts fire on, seen over time. Pure.

It is built with Grafana's own typed SDK from the recorded series and the thresholds of the alerts, so a number in an
alert's text is a line in a picture. Which Prometheus and which endpoint is chosen at the top of the page.
"""

import json
from collections.abc import Mapping

from grafana_foundation_sdk.builders.common import GraphThresholdsStyleConfig, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphTresholdsStyleMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    VariableRefresh,
)

from deploy_targets.metrics import ENDPOINT, REQUESTS, VERSION
from deploy_targets.monitoring import limits, recordings

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_CHOSEN = f'{{{ENDPOINT}="$endpoint"}}'
_EACH_VERSION = f"version {{{{{VERSION}}}}}"
_WIDTH, _HEIGHT = 8, 8
"""Three panels in a row of Grafana's 24 columns."""


def dashboard_json() -> str:
    """The dashboard as a file that Grafana 10 and later import."""
    rate = recordings.REQUEST_RATE.record + _CHOSEN
    total = f"sum by ({ENDPOINT}) ({rate})"
    budget = {
        f"last {window}": recordings.endpoint_error_ratio(window).record + _CHOSEN
        for window in (burn.long for burn in limits.BURN_RATES)
    }
    panels = (
        _panel("Requests", "reqps", {_EACH_VERSION: rate}),
        _panel(
            "Share of requests",
            "percentunit",
            {_EACH_VERSION: f"{rate} / on ({ENDPOINT}) group_left () ({total} > 0)"},
            about="The canary weight as clients meet it. `shipway status` has the weight that was asked for.",
        ).max(1),
        _panel(
            "Failed requests",
            "percentunit",
            {_EACH_VERSION: recordings.ERROR_RATIO.record + _CHOSEN},
            limit=limits.ERROR_RATIO,
            about="The line is where HighErrorRate begins.",
        ),
        _panel("Half of the answers within", "s", {_EACH_VERSION: recordings.P50.record + _CHOSEN}),
        _panel(
            "95 % of the answers within",
            "s",
            {_EACH_VERSION: recordings.P95.record + _CHOSEN},
            limit=limits.P95_LATENCY_S,
            about="The line is where HighTailLatency begins.",
        ),
        _panel("99 % of the answers within", "s", {_EACH_VERSION: recordings.P99.record + _CHOSEN}),
        _panel(
            "Mean time of an answer",
            "s",
            {_EACH_VERSION: recordings.MEAN_LATENCY.record + _CHOSEN},
            limit=limits.MEAN_LATENCY_S,
            about="The line is where HighLatency begins.",
        ),
        _panel(
            "Failed requests of the endpoint",
            "percentunit",
            budget,
            limit=limits.ERROR_BUDGET,
            about="All versions together. The line is the error budget: what may fail over 30 days.",
        ),
    )
    dashboard = (
        Dashboard("LLM endpoint")
        .uid("shipway-endpoint")
        .description("Requests, failures and latency of an endpoint, by version. Made by Shipway.")
        .tags(["shipway"])
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("endpoint")
            .label("Endpoint")
            .datasource(_SOURCE)
            .query(f"label_values({REQUESTS.name}, {ENDPOINT})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )
    for number, panel in enumerate(panels, start=1):
        dashboard = dashboard.with_panel(panel.id(number))
    return json.dumps(dashboard.build(), cls=JSONEncoder, indent=1) + "\n"


def _panel(
    title: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    limit: float | None = None,
    about: str = "",
) -> Panel:
    """Lines over time, from 0 up: PromQL by legend, and a dashed line at `limit`."""
    panel = Panel().title(title).description(about).unit(unit).min(0)
    panel = panel.datasource(_SOURCE).span(_WIDTH).height(_HEIGHT)
    panel = panel.tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    for letter, (legend, expr) in zip("ABCDEFGH", queries.items(), strict=False):
        panel = panel.with_target(
            Dataquery().ref_id(letter).datasource(_SOURCE).expr(expr).legend_format(legend).range()
        )
    if limit is None:
        return panel
    steps = [Threshold(color="transparent"), Threshold(value=limit, color="red")]
    return panel.thresholds(ThresholdsConfig().steps(steps)).thresholds_style(
        GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
    )
