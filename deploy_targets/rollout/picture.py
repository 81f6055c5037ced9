"""A rollout drawn: the weight, the requests, errors and bad answers of both sides, and each metric's sequences, over one time axis.

`python -m deploy_targets.rollout.picture` reads title and rollout as JSON and writes the PNG (`picture_process`).
"""

import io
import math
import sys
from itertools import accumulate
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from deploy_targets.declared import AS_DUMPED
from deploy_targets.rollout.state import RolloutState

# matplotlib leaves its keyword arguments untyped, hence the Any.
_CHAMPION, _CHALLENGER = "tab:blue", "tab:orange"
_HIGHEST = 1e30
"""What an e-value is drawn as at the most: far beyond any bound."""
_COLORS = ("tab:red", "tab:purple", "tab:green", "tab:brown", "tab:pink", "tab:olive")


def draw_rollout(rollout: RolloutState, *, title: str) -> bytes:
    """A PNG of four panels, 900 by 1000 pixels; without points the panels are empty."""
    figure: Any = Figure(figsize=(9, 10), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    weight, requests, evidence, increase = figure.subplots(4, 1, sharex=True)
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
        if any(c.judged for c in counts):
            requests.plot(
                seconds,
                list(accumulate(c.bad for c in counts)),
                color=color,
                linestyle="--",
                label=f"{side}, bad answers",
            )
    requests.set_yscale("symlog")
    requests.legend(loc="best", fontsize="small")
    _label(requests, "since its start")
    for metric, color in zip(_metrics(rollout), _COLORS, strict=False):
        told = [
            (at, reading)
            for at, point in zip(seconds, points, strict=True)
            for reading in point.readings
            if reading.metric == metric
        ]
        times = [at for at, _ in told]
        evidence.plot(
            times, [min(one.e_value, _HIGHEST) for _, one in told], color=color, label=metric
        )
        evidence.axhline(told[-1][1].bound, color=color, linestyle="--")
        ends = [(one.low, one.high) for _, one in told]
        lows = [math.nan if low is None else 100 * low for low, _ in ends]
        highs = [math.nan if high is None else 100 * high for _, high in ends]
        increase.plot(times, lows, color=color, label=f"{metric}, at least")
        increase.plot(times, highs, color=color, linestyle=":", label=f"{metric}, at most")
        increase.fill_between(times, lows, highs, color=color, alpha=0.15)
    evidence.set_yscale("log")
    _label(evidence, "e-value of harm\n(dashed: rolls back)")
    told_of = "rate" if rollout.champion is None else "increase"
    _label(increase, f"{told_of}, points\n(of cost: % of its bound)")
    for axes in (evidence, increase):
        if axes.lines:
            axes.legend(loc="best", fontsize="small")
    increase.set_xlabel("seconds since the request was seen")
    figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _metrics(rollout: RolloutState) -> tuple[str, ...]:
    """The metrics that were read at any point, in the order of the first that has them."""
    named = {reading.metric: None for point in rollout.points for reading in point.readings}
    return tuple(named)


def _label(axes: Any, text: str) -> None:
    axes.set_ylabel(text)
    axes.grid(visible=True, alpha=0.3)


if __name__ == "__main__":
    order = TypeAdapter(tuple[str, RolloutState])
    name, read = order.validate_json(sys.stdin.buffer.read(), context=AS_DUMPED)
    sys.stdout.buffer.write(draw_rollout(read, title=name))
