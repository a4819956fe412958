"""The trials as a figure: the metric over each setting that was searched, and against each other metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from fedllm_bench.report.style import COLOURS, STYLE, save
from fedllm_bench.tuning.payload import shown_choice
from fedllm_bench.tuning.trials import DEFAULT

Row = Mapping[str, Any]
COLUMNS = 3
KINDS = {  # colour, marker, size: told apart without colours too
    "trial": (COLOURS["after"], "o", 22),
    "default": (COLOURS["local"], "D", 44),
    "chosen": ("#D55E00", "*", 130),
}


def draw_trials(payload: Mapping[str, Any], out_dir: Path) -> list[Path]:
    """trials.png and .svg: a panel for each setting, and one for each other metric; [] where no trial has a value.

    Of several budgets the one that most trials have is drawn.
    """
    tune, rows = payload["tune"], _shown(payload)
    if not rows:
        return []
    others = [found["metric"] for found in payload["correlations"] if _drawable(rows, found["metric"])]
    count = len(tune["space"]) + len(others)
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(max(4.5, 3.3 * columns), 1.0 + 2.7 * lines))
        panels = [axes for line in figure.subplots(lines, columns, squeeze=False) for axes in line]
        for axes, dimension in zip(panels, tune["space"], strict=False):
            _over_setting(axes, dimension, rows, payload)
        for axes, other in zip(panels[len(tune["space"]) :], others, strict=False):
            _against_metric(axes, other, rows, payload)
        for axes in panels[count:]:
            axes.set_visible(False)
        figure.suptitle(_title(payload, rows), x=0.01, ha="left", fontsize=10)
        figure.legend(handles=_handles(payload), loc="outside lower left", ncols=3, fontsize=8)
        return save(figure, out_dir, "trials")


def _shown(payload: Mapping[str, Any]) -> list[Row]:
    rows = [each for each in payload["trials"] if each["value"] is not None]
    budgets = [each["budget"] for each in rows]
    budget = max(budgets, key=lambda value: (budgets.count(value), value), default=0)
    return [each for each in rows if each["budget"] == budget]


def _drawable(rows: Sequence[Row], metric: str) -> bool:
    return all(each["metrics"].get(metric, {}).get("mean") is not None for each in rows)


def _title(payload: Mapping[str, Any], rows: Sequence[Row]) -> str:
    tune = payload["tune"]
    budget = f", {tune['budget']}={rows[0]['budget']}" if len(tune["budgets"]) > 1 else ""
    return f"{tune['dataset']}, {tune['method']}: {len(rows)} trials by {tune['search']}{budget}"


def _over_setting(axes: Axes, dimension: Row, rows: Sequence[Row], payload: Mapping[str, Any]) -> None:
    key = dimension["key"]
    values = [each["setting"][key] for each in rows]
    if dimension["kind"] == "choice" or not all(isinstance(value, (int, float)) for value in values):
        names = list(dict.fromkeys(map(shown_choice, [*dimension["choices"], *values])))
        values = [names.index(shown_choice(value)) for value in values]
        axes.set_xticks(range(len(names)), names)
    elif dimension["kind"] == "log" and min(values) > 0:
        _logarithmic(axes, min(dimension["low"], *values), max(dimension["high"], *values))
    _points(axes, values, [each["value"] for each in rows], rows, payload)
    axes.set(xlabel=key, ylabel=_with_unit(payload))


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """The whole range that was searched; within a few decades matplotlib's labels between these would overlap."""
    axes.set_xscale("log")
    axes.set_xlim(low / 1.2, high * 1.2)
    if high / low >= 10:
        axes.xaxis.set_minor_formatter(NullFormatter())


def _against_metric(axes: Axes, other: str, rows: Sequence[Row], payload: Mapping[str, Any]) -> None:
    means = [each["metrics"][other]["mean"] for each in rows]
    _points(axes, means, [each["value"] for each in rows], rows, payload)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set(xlabel=other, ylabel=_with_unit(payload))


def _with_unit(payload: Mapping[str, Any]) -> str:
    tune = payload["tune"]
    return f"{tune['metric']} ({tune['unit']})"


def _points(
    axes: Axes, x: Sequence[float], y: Sequence[float], rows: Sequence[Row], payload: Mapping[str, Any]
) -> None:
    for place, each in enumerate(rows):
        colour, marker, size = KINDS[_kind(each, payload)]
        axes.scatter(x[place], y[place], s=size, color=colour, marker=marker, edgecolors="white", linewidths=0.5)


def _kind(each: Row, payload: Mapping[str, Any]) -> str:
    if each["number"] == DEFAULT:
        return "default"
    return "chosen" if payload["chosen"] and each["number"] == payload["chosen"]["number"] else "trial"


def _handles(payload: Mapping[str, Any]) -> list[Line2D]:
    chosen = payload["chosen"]
    names = {"trial": "a trial", "default": "the default", "chosen": "the chosen setting"}
    if not chosen or chosen["number"] == DEFAULT:
        names = {"trial": "a trial", "default": "the default" + (", which is chosen" if chosen else "")}
    return [
        Line2D([], [], linestyle="", color=KINDS[kind][0], marker=KINDS[kind][1], label=name)
        for kind, name in names.items()
    ]
