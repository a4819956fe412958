"""One metric client by client: base, after, and trained alone where there is such a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedllm_bench.common.text import counted, number
from fedllm_bench.report.legend import SIDES, after_name
from fedllm_bench.report.names import short_names
from fedllm_bench.report.style import COLOURS, canvas, legend_below, save, title

LABELLED_CLIENTS = 60  # more names than this cannot be read on one page
HOLLOW_FROM = 10  # points squared; a smaller mark has no room for a hole
MARKERS = {"before": "o", "after": "o", "local": "D"}

Row = Mapping[str, Any]  # of `clients` in results.json
Values = Mapping[str, NDArray[np.float64]]  # side -> one value for each row; NaN, drawn as nothing, for none


def clients(payload: Mapping[str, Any], metric: str, out_dir: Path, *, label: str = "") -> list[Path]:
    """`metric` of each client, sorted by the base: what the trained model changed, and for whom.

    Clients without a score on both sides are counted in the title. Up to 60 clients are named, one line each;
    more stand side by side without names.
    """
    found = payload["clients"][metric]
    rows = [row for row in found if row["before"] is not None and row["after"] is not None]
    if not rows:
        return []
    rows.sort(key=_order)
    named, entry = len(rows) <= LABELLED_CLIENTS, payload["metrics"][metric]
    quantity, names = f"{metric} ({entry['unit']})", {**SIDES, "after": after_name(payload)}
    with canvas(*(6.4, 1.7 + 0.17 * len(rows)) if named else (8.0, 4.2)) as (figure, axes):
        (_draw_named if named else _draw_many)(axes, rows, quantity)
        _legend(figure, axes, rows, names)
        title(axes, label, _text(metric, rows, entry["distribution"], left_out=len(found) - len(rows)))
        return save(figure, out_dir, f"clients_{metric}")


def short_ids(ids: Sequence[str]) -> list[str]:
    """Client ids that fit on an axis and have glyphs in the default font."""
    return [name.replace("$", r"\$") for name in short_names(ids)]  # two dollars would begin a formula


def _order(row: Row) -> tuple[float, float, float, str]:
    """By the base; shares have many ties, which the other sides break."""
    local = -math.inf if row["local"] is None else row["local"]
    return row["before"], row["after"], local, row["client"]


def _text(metric: str, rows: Sequence[Row], distribution: Mapping[str, Any], left_out: int) -> str:
    num_rows = sum(row["n_rows"] for row in rows)
    n, better = distribution["difference"]["n"], distribution["num_better"]
    equal = n - better - distribution["num_worse"]
    lacking = f" ({left_out} more lack a score)" if left_out else ""
    gains = f"better after for {better}" + (f", equal for {equal}" if equal else "")
    return f"{metric} of {counted(len(rows), 'client')}{lacking} on {counted(num_rows, 'item')}; {gains}"


def _values(rows: Sequence[Row]) -> Values:
    return {side: np.array([row[side] for row in rows], dtype=np.float64) for side in SIDES}


def _draw_named(axes: Axes, rows: Sequence[Row], quantity: str) -> None:
    values, y = _values(rows), np.arange(len(rows))
    axes.hlines(y, values["before"], values["after"], color="#cccccc", linewidth=1.8, zorder=2)
    _draw_points(axes, values, {"before": 26, "after": 26, "local": 22}, upright=False)
    axes.set_yticks(y, short_ids([row["client"] for row in rows]), fontsize=7)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(quantity)


def _draw_many(axes: Axes, rows: Sequence[Row], quantity: str) -> None:
    values, x = _values(rows), np.arange(len(rows))
    axes.vlines(x, values["before"], values["after"], color="#e0e0e0", linewidth=0.6, zorder=2)
    few = np.isfinite(values["local"]).sum() <= LABELLED_CLIENTS
    _draw_points(axes, values, {"before": 4, "after": 5, "local": 18 if few else 3}, upright=True)
    axes.set_xlim(-2, len(rows) + 1)
    axes.set(xlabel="clients, sorted by the base model", ylabel=quantity)


def _draw_points(axes: Axes, values: Values, areas: Mapping[str, float], *, upright: bool) -> None:
    """`upright`: values go up and clients go right; `areas` in points squared."""
    for side, area in areas.items():
        there = np.flatnonzero(np.isfinite(values[side]))
        x, y = (there, values[side][there]) if upright else (values[side][there], there)
        axes.scatter(x, y, s=area, zorder=3, **_look(side, hollow=area > HOLLOW_FROM))


def _look(side: str, *, hollow: bool = True) -> dict[str, Any]:
    """The baseline is hollow where it is large, so that what lies under it is seen."""
    if side == "local" and hollow:
        return {"marker": MARKERS[side], "facecolors": "none", "edgecolors": COLOURS[side], "linewidths": 1.3}
    return {"marker": MARKERS[side], "facecolors": COLOURS[side], "linewidths": 0}


def _legend(figure: Figure, axes: Axes, rows: Sequence[Row], names: Mapping[str, str]) -> None:
    """Marks of one size, whatever their size in the figure."""
    for side, found in _values(rows).items():
        there = found[np.isfinite(found)]
        if len(there):
            name = f"trained alone ({counted(len(there), 'client')})" if side == "local" else names[side]
            text = f"{name}, median {number(float(np.median(there)))}"
            axes.scatter([], [], s=24, label=text, **_look(side))
    legend_below(figure, ncols=3)
