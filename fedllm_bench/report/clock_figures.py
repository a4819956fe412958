"""Held-out loss over virtual hours and over bytes, of one run or of several (docs/clock.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedllm_bench.common.text import counted, from_to, number
from fedllm_bench.report.names import LOSS_NAMES
from fedllm_bench.report.style import STYLE, legend_below, save
from fedllm_bench.results.clock import HOUR, MB

# Okabe and Ito; the marker says the same.
LOOKS = (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "s"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
Payload = Mapping[str, Any]
Point = tuple[float, float, float]  # virtual hours, MB, loss


def over_the_clock(payloads: Mapping[str, Payload], out_dir: Path, *, label: str = "", name: str = "") -> list[Path]:
    """The mean held-out loss of clients over virtual hours, and over bytes of both ways; a line for each payload.

    Those are results by what is said of them. Nothing is written where none has a clock and was scored over rounds
    (`evaluation.every`).
    """
    lines = {key: points for key, payload in payloads.items() if len(points := curve(payload)) > 1}
    if not lines:
        return []
    shown = [payloads[key] for key in lines]
    found = shown[0]["over_rounds"]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(8.4, 3.8))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, place, what in zip(panels, (0, 1), ("virtual hours", "MB sent, down and up"), strict=True):
            _draw(axes, lines, place)
            axes.set(xlabel=what)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        panels[0].set(ylabel=f"mean {LOSS_NAMES[found['metric']]} ({found['unit']})")
        legend_below(figure, ncols=2)
        clients = counted(
            from_to(row["heldout"]["n"] for one in shown for row in one["over_rounds"]["rounds"]), "client"
        )
        what = f"{LOSS_NAMES[found['metric']].capitalize()} of {clients} by the virtual clock"
        figure.suptitle(f"{label}\n{what}" if label else what, x=0.01, ha="left", fontsize=10)
        return save(figure, out_dir, name or "heldout_over_clock")


def curve(payload: Payload) -> list[Point]:
    """A point for each round that was scored, the base first; [] without a clock or such rounds."""
    clock, found = payload.get("clock"), payload.get("over_rounds")
    if not clock or not found:
        return []
    rows = [row for row in found["rounds"] if row["heldout"]["mean"] is not None]
    return [(*_at(clock, row["round"]), row["heldout"]["mean"]) for row in rows]


def _at(clock: Mapping[str, Any], round_num: int) -> tuple[float, float]:
    """Virtual hours and MB at the end of a round; round 0 is the start."""
    if round_num == 0:
        return 0.0, 0.0
    return clock["virtual_seconds"][round_num - 1] / HOUR, clock["bytes"][round_num - 1] / MB


def _draw(axes: Axes, lines: Mapping[str, Sequence[Point]], place: int) -> None:
    for (key, points), (colour, marker) in zip(lines.items(), LOOKS * len(lines), strict=False):
        end = points[-1]
        text = f"{key}: {number(end[2])} after {end[0]:.3g} hours and {end[1]:.3g} MB" if place == 0 else None
        x, y = [point[place] for point in points], [point[2] for point in points]
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.5, label=text)
    axes.set_xlim(left=0)
