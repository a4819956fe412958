"""Forest plots of a grid: differences of all methods to one of them, a panel for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedllm_bench.common.text import counted, from_to, signed
from fedllm_bench.report.grid.table import name_of, references, shown_views
from fedllm_bench.report.style import STYLE, save
from fedllm_bench.results.grid_results import BASE
from fedllm_bench.scores.seeds import CLEAR

BETTER, WORSE, NEITHER = "#0072B2", "#D55E00", "#666666"  # Okabe and Ito; filled or hollow says the same
APART = (BASE, "local")  # far from the other methods: where they would squeeze them, an arrow points to them
COLUMNS = 2
Row = Mapping[str, Any]


def forest_plots(payload: Mapping[str, Any], out_dir: Path) -> list[Path]:
    """differences_to_<reference>.png and .svg for each reference; of the metrics in the table on the terminal."""
    paths = []
    for reference in references(payload):
        names = [name for name in payload["cost"] if name != reference]
        if names:
            paths += _forest(payload, reference, names, out_dir)
    return paths


def _forest(payload: Mapping[str, Any], reference: str, names: Sequence[str], out_dir: Path) -> list[Path]:
    views = shown_views(payload)
    columns = min(COLUMNS, len(views))
    lines = -(-len(views) // columns)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(1.6 + 3.7 * columns, 1.3 + lines * (0.85 + 0.24 * len(names))))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        panels = [axes for line in grid for axes in line]
        for axes, view in zip(panels, views, strict=False):
            _panel(axes, payload["metrics"][view], view, reference, names)
        for axes in panels[len(views) :]:
            axes.set_visible(False)
        figure.suptitle(_title(payload, reference), x=0.01, ha="left", fontsize=10)
        figure.legend(handles=_handles(payload), loc="outside lower left", ncols=3, fontsize=8)
        return save(figure, out_dir, f"differences_to_{reference}")


def _title(payload: Mapping[str, Any], reference: str) -> str:
    grid = payload["grid"]
    counts = f"{counted(payload['data']['num_clients'], 'client')}, {counted(len(grid['seeds']), 'seed')}"
    return f"{grid['dataset']}: methods minus {reference} ({counts})"


def _panel(axes: Axes, entry: Row, view: str, reference: str, names: Sequence[str]) -> None:
    rows = [entry["methods"][name]["differences"].get(reference) for name in names]
    found = [
        (y, name, row) for y, (name, row) in enumerate(zip(names, rows, strict=True)) if row and row["mean"] is not None
    ]
    low, high = _limits([row for _, name, row in found if name not in APART] or [row for *_, row in found])
    axes.axvline(0, color="#222222", linewidth=0.9)
    for y, _, row in found:
        if low <= row["mean"] <= high:
            _draw(axes, y, row, better=(row["mean"] > 0) == entry["higher_is_better"])
        else:
            _point_to(axes, y, row, right=row["mean"] > high, better=(row["mean"] > 0) == entry["higher_is_better"])
    clients = from_to(row["n"] for *_, row in found)
    axes.set_title(f"{name_of(view, entry)} ({counted(clients, 'client')})", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlim=(low, high), xlabel=entry["unit"])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """What holds 0 and all intervals and seeds of these rows, with a margin."""
    values = [0.0]
    for row in rows:
        values += [
            x for x in (row["mean"], row["ci_low"], row["ci_high"], *row["seeds"]["values"].values()) if x is not None
        ]
    margin = 0.06 * (max(values) - min(values)) or 0.01
    return min(values) - margin, max(values) + margin


def _style(row: Row, better: bool) -> dict[str, Any]:
    """Filled and coloured where the difference is clear, else hollow and grey."""
    colour = (BETTER if better else WORSE) if row["verdict"] == CLEAR else NEITHER
    return {"color": colour, "markerfacecolor": colour if row["verdict"] == CLEAR else "white"}


def _draw(axes: Axes, y: int, row: Row, *, better: bool) -> None:
    style = _style(row, better)
    if row["ci_low"] is not None:
        axes.hlines(y, row["ci_low"], row["ci_high"], color=style["color"], linewidth=1.6, zorder=2)
    dots = [value for value in row["seeds"]["values"].values() if value is not None]
    axes.plot(dots, [y + 0.25] * len(dots), linestyle="", marker=".", markersize=3.5, color="#444444", zorder=3)
    axes.plot(row["mean"], y, marker="o", markersize=5.5, zorder=4, **style)


def _point_to(axes: Axes, y: int, row: Row, *, right: bool, better: bool) -> None:
    """An arrow at the edge, with the difference that lies beyond it."""
    style = _style(row, better)
    place = axes.get_yaxis_transform()
    x, text = (0.985, 0.955) if right else (0.015, 0.045)
    axes.plot(x, y, marker=">" if right else "<", markersize=5.5, transform=place, zorder=4, **style)
    axes.text(text, y, signed(row["mean"]), ha="right" if right else "left", va="center", fontsize=7.5, transform=place)


def _handles(payload: Mapping[str, Any]) -> list[Line2D]:
    several = len(payload["grid"]["seeds"]) > 1
    clear = "intervals over clients and over seeds exclude 0" if several else "the interval over clients excludes 0"

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", label=label, **style)

    return [
        mark(f"better: {clear}", marker="o", color=BETTER),
        mark("worse: likewise", marker="o", color=WORSE),
        mark("not distinguishable", marker="o", color=NEITHER, markerfacecolor="white"),
        Line2D([], [], color=NEITHER, linewidth=1.6, label="95% interval over clients"),
        mark("each seed", marker=".", color="#444444"),
        mark("beyond the edge", marker=">", color=NEITHER),
    ]
