"""A rollout drawn: the weight, the requests and errors of both sides, and the evidence, over one time axis."""

import io
from itertools import accumulate
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deploy_targets.rollout.state import RolloutState

# matplotlib leaves its keyword arguments untyped, hence the Any.
_CHAMPION, _CHALLENGER = "tab:blue", "tab:orange"


def draw_rollout(rollout: RolloutState, *, title: str) -> bytes:
    """A PNG of three panels, 900 by 750 pixels; without points the panels are empty."""
    figure: Any = Figure(figsize=(9, 7.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    weight, requests, evidence = figure.subplots(3, 1, sharex=True)
    points = rollout.points
    seconds = [(point.at - rollout.started).total_seconds() for point in points]
    weight.step(seconds, [p.weight for p in points], where="post", color=_CHALLENGER)
    _label(weight, "challenger's weight, %")
    weight.set_ylim(-3, 103)
    sides = (
        ("champion", _CHAMPION, [p.champion for p in points]),
        ("challenger", _CHALLENGER, [p.challenger for p in points]),
    )
    for side, color, counts in sides:
        requests.plot(
            seconds,
            list(accumulate(c.requests for c in counts)),
            color=color,
            label=f"{side}, requests",
        )
        requests.plot(
            seconds,
            list(accumulate(c.errors for c in counts)),
            color=color,
            linestyle=":",
            label=f"{side}, errors",
        )
    requests.set_yscale("symlog")
    requests.legend(loc="best", fontsize="small")
    _label(requests, "since its start")
    evidence.plot(seconds, [p.e_value for p in points], color="tab:red")
    evidence.set_yscale("log")
    _label(evidence, "e-value: evidence of harm")
    evidence.set_xlabel("seconds since the request was seen")
    figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _label(axes: Any, text: str) -> None:
    axes.set_ylabel(text)
    axes.grid(visible=True, alpha=0.3)
