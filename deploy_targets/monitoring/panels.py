"""One panel of a dashboard: lines over time. Pure."""

from collections.abc import Mapping

from grafana_foundation_sdk.builders.common import GraphThresholdsStyleConfig, VizTooltipOptions
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.models.common import GraphTresholdsStyleMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold

from deploy_targets.metrics import ENDPOINT, VERSION

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = f'{{{ENDPOINT}="$endpoint"}}'
EACH_VERSION = f"version {{{{{VERSION}}}}}"
_WIDTH, _HEIGHT = 8, 8
"""Three panels in a row of Grafana's 24 columns."""


def panel(
    title: str,
    unit: str,
    queries: Mapping[str, str],
    *,
    limit: float | None = None,
    about: str = "",
) -> Panel:
    """Lines over time, from 0 up: PromQL by legend, and a dashed line at `limit`."""
    made = Panel().title(title).description(about).unit(unit).min(0)
    made = made.datasource(SOURCE).span(_WIDTH).height(_HEIGHT)
    made = made.tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    for letter, (legend, expr) in zip("ABCDEFGH", queries.items(), strict=False):
        made = made.with_target(
            Dataquery().ref_id(letter).datasource(SOURCE).expr(expr).legend_format(legend).range()
        )
    if limit is None:
        return made
    steps = [Threshold(color="transparent"), Threshold(value=limit, color="red")]
    return made.thresholds(ThresholdsConfig().steps(steps)).thresholds_style(
        GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
    )
