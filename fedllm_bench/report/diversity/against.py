"""Two splits side by side (`--against`): how their clients are distributed, and a table of what is measured of both."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fedllm_bench.common.text import MISSING, counted, number
from fedllm_bench.report.diversity.frame import PALETTE, Drawing, Frame, plain_log

SIDES: dict[str, tuple[str, Any]] = {"here": (PALETTE[0], "-"), "there": (PALETTE[1], (0, (4, 2)))}
COLUMNS = 3
LOGARITHMIC = ("rows", "characters", "tokens")


def against(frame: Frame) -> Drawing | None:
    """Of each measure of clients what share of clients is below a value, for both splits."""
    found = frame.report.get("against")
    measures = [one for one in (found or {}).get("clients", ()) if one["here"] and one["there"]]
    if found is None or not measures:
        return None
    names = side_names(frame.report)
    lines = math.ceil(len(measures) / COLUMNS)
    legend: list[Artist] = [
        Line2D([], [], color=colour, linestyle=dashes, label=names[side]) for side, (colour, dashes) in SIDES.items()
    ]
    shape = (lines, min(COLUMNS, len(measures)))
    with frame.sheet(8.8, 1.0 + 2.1 * lines, shape=shape) as sheet:
        for axes in sheet.axes.flat[len(measures) :]:
            axes.axis("off")
        for axes, measure in zip(sheet.axes.flat, measures, strict=False):
            _draw_shares(axes, measure)
        told = ("against", "Against the other split", _title(found))
        return frame.finish(sheet, told, {"computed_on": _both(frame.report)}, legend)


def side_names(report: Mapping[str, Any]) -> dict[str, str]:
    """Both by name; with their hashes where the names are equal."""
    splits = {"here": report["split"], "there": report["against"]["split"]}
    same = splits["here"]["name"] == splits["there"]["name"]
    return {side: f"{one['name']} {one['hash'][:8]}" if same else one["name"] for side, one in splits.items()}


def measures_table(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(measure and unit, here, there) of what is measured of whole splits."""
    found = []
    for one in report.get("against", {}).get("measures", ()):
        label = f"{one['label']} ({one['unit']})" if one["unit"] else one["label"]
        here, there = (MISSING if one[side] is None else number(one[side]) for side in SIDES)
        found.append((label, here, there))
    return found


def _title(found: Mapping[str, Any]) -> str:
    shared, languages = found.get("shared"), found.get("languages")
    parts = ["Clients of both splits, by share of clients"]
    parts += [f"{shared['rows']:.1%} of the rows stand in both"] if shared else []
    parts += [f"languages differ by {languages['divergence']:.2f} bits of 1 (Jensen-Shannon)"] if languages else []
    return "; ".join(parts)


def _both(report: Mapping[str, Any]) -> dict[str, Any]:
    here, there = report["split"], report["against"]["split"]
    other = f"against {there['rows']:,} rows of {counted(there['clients'], 'client')} of {side_names(report)['there']}"
    return {
        "rows": here["rows"],
        "clients": here["clients"],
        "what": f"{other}; test: Kolmogorov and Smirnov, two samples",
    }


def _draw_shares(axes: Axes, measure: Mapping[str, Any]) -> None:
    for side, (colour, dashes) in SIDES.items():
        own = np.sort(measure[side])
        shares = np.arange(len(own) + 1) / len(own)
        axes.step(_padded(own), shares, where="post", color=colour, linestyle=dashes)
    values = [*measure["here"], *measure["there"]]
    if measure["unit"] in LOGARITHMIC and min(values) > 0:
        axes.set_xscale("log")
        plain_log(axes.xaxis, (1,) if max(values) > 30 * min(values) else (1, 2, 5))
    p = "" if measure["p_value"] is None else f"\np = {measure['p_value']:.2g}"
    axes.set_title(f"{textwrap.fill(measure['label'], 34)}{p}", fontsize=7.5)
    axes.set(xlabel=measure["unit"], ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(labelsize=7)


def _padded(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The first value twice: no client is below it."""
    return np.concatenate([[values[0]], values])
