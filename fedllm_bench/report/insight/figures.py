"""Gains of clients over what clients are: a row of scatter plots for each outcome, one figure for each method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy import stats

from fedllm_bench.common.text import counted, from_to
from fedllm_bench.diversity.insight.gains import OUTCOMES
from fedllm_bench.diversity.insight.insight import ALL, values_of
from fedllm_bench.diversity.insight.predictors import NAMES
from fedllm_bench.report.client_figures import short_ids
from fedllm_bench.report.insight.text import p_text, rho
from fedllm_bench.report.page.browser import language_label
from fedllm_bench.report.style import STYLE, save

# Okabe and Ito, and a mark for each, so that languages are told apart without colours too
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
OTHERS = "#999999"
APART = (0.16, 0.055)  # of labels, in widths and heights of the plot; nearer ones would cover each other
TICKS = {0.9: (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), 1.7: (1.0, 2.0, 5.0), 9.9: (1.0, 3.0)}  # decades -> in each of them
MANY = 150  # clients; from here on marks are smaller
AXES = {
    "distance": "distance from the crowd\n(MMD² to all other clients' prompts)",
    "size": "training rows",
    "language": "other clients' rows\nin its languages",
}


def insight_figures(report: Mapping[str, Any], out: Path) -> list[Path]:
    """insight_<method>.png and .svg for each method of which a gain is known, and for all of them together."""
    methods = dict.fromkeys(method for of in report["outcomes"].values() if "skipped" not in of for method in of)
    return [path for method in methods for path in _figure(report, method, out)]


def _figure(report: Mapping[str, Any], method: str, out: Path) -> list[Path]:
    rows = [outcome for outcome, of in report["outcomes"].items() if method in of]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(10.5, 0.9 + 3.1 * len(rows)))
        grid = figure.subplots(len(rows), len(NAMES), squeeze=False, sharey="row")
        looks = _looks(report)
        for line, outcome in zip(grid, rows, strict=True):
            for axes, name in zip(line, NAMES, strict=True):
                _scatter(axes, report, (outcome, method, name), looks)
            line[0].set_ylabel(f"{OUTCOMES[outcome]}\n({report['metric']['unit']})")
        figure.suptitle(_title(report, method), x=0.01, ha="left", fontsize=10)
        _legend(figure, looks)
        return save(figure, out, f"insight_{method}")


def _title(report: Mapping[str, Any], method: str) -> str:
    runs = [run for run in report["runs"] if method in (ALL, run["method"])]
    seeds = sorted({run["seed"] for run in runs})
    name = f"all of {', '.join(dict.fromkeys(run['method'] for run in runs))}" if method == ALL else method
    what = f"{report['split']['name']}, {name}: {report['metric']['name']} gained by each client, mean over"
    listed = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    items = f"on {from_to(run['items'] for run in runs)} held-out items each"
    below = f"above 0 is better; distances by {report['settings']['embedder']}, of {report['split']['rows']:,} rows"
    return f"{what} {counted(len(runs), 'run')} ({listed}) {items}\n{below}"


def _looks(report: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Main language -> colour and marker, the most frequent first; further ones look alike."""
    counts = Counter(entry["main_language"] for entry in report["clients"])
    ranked = sorted(counts, key=lambda language: (-counts[language], language))
    known = {language: (PALETTE[i], MARKERS[i]) for i, language in enumerate(ranked[: len(PALETTE)])}
    return known | dict.fromkeys(ranked[len(PALETTE) :], (OTHERS, "o"))


def _scatter(
    axes: Axes, report: Mapping[str, Any], which: tuple[str, str, str], looks: Mapping[str, tuple[str, str]]
) -> None:
    outcome, method, name = which
    found, result = values_of(report, *which), report["outcomes"][outcome][method]["correlations"][name]
    languages = {entry["id"]: entry["main_language"] for entry in report["clients"]}
    x, y = (np.array([point[i] for point in found], dtype=np.float64) for i in (1, 2))
    x = x if name == "distance" else np.exp2(x)
    if name != "distance" and len(x):
        _count_axis(axes, x)
    if not len(x):
        axes.set_xticks([])
    axes.axhline(0, color="#666666", linewidth=0.8, zorder=1)
    for language, (colour, marker) in looks.items():
        at = [i for i, point in enumerate(found) if languages[point[0]] == language]
        area = 26 if len(found) < MANY else 9
        axes.scatter(x[at], y[at], s=area, color=colour, marker=marker, linewidths=0, alpha=0.85, zorder=3)
    _guide(axes, x, y, is_log=name != "distance")
    _label(axes, [point[0] for point in found], x, y)
    axes.set_xlabel(AXES[name])
    about = "skipped" if "skipped" in result else f"rho {rho(result)}, p {p_text(result['p_value'])}"
    axes.set_title(f"{counted(len(found), 'client')}; {about}", fontsize=8.5)


def _count_axis(axes: Axes, x: Any) -> None:
    """Logarithmic, with plain numbers; a value that all clients share stands in the middle."""
    axes.set_xscale("log")
    spans = float(np.ptp(np.log10(x)))
    subs = next((ticks for most, ticks in TICKS.items() if spans <= most), (1.0,))
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if not spans:
        axes.set_xlim(x[0] / 2, x[0] * 2)


def _guide(axes: Axes, x: Any, y: Any, *, is_log: bool) -> None:
    """The line of Theil and Sen, which a few far clients do not turn; on the scale that is drawn."""
    at = np.log(x) if is_log else x
    if len(x) < 3 or np.ptp(at) == 0:
        return
    slope, start, _, _ = stats.theilslopes(y, at)
    ends = np.array([at.min(), at.max()])
    axes.plot(
        np.exp(ends) if is_log else ends, start + slope * ends, color="#444444", linestyle="--", linewidth=1, zorder=2
    )


def _label(axes: Axes, ids: Sequence[str], x: Any, y: Any) -> None:
    """The clients with the most and the least gain, and the one farthest to the right."""
    if len(ids) < 2:
        return
    order, names = np.argsort(y, kind="stable"), short_ids(ids)
    at = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack([x, y])))
    placed: list[int] = []
    far = (int(order[-1]), int(order[0]), int(np.argmax(x)), int(order[1]), int(order[-2]))
    for place in far[: 5 if len(ids) < MANY else 3]:
        if any((np.abs(at[place] - at[other]) < APART).all() for other in placed):
            continue
        placed.append(place)
        right = at[place][0] > 0.5
        axes.annotate(
            names[place],
            (x[place], y[place]),
            xytext=(-4 if right else 4, 4),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=6.5,
            color="#333333",
            zorder=2.5,  # under the points, which are the data
        )


def _legend(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    named = [(language, look) for language, look in looks.items() if look[0] != OTHERS]
    axes = figure.axes[0]
    for language, (colour, marker) in named:
        axes.scatter([], [], s=26, color=colour, marker=marker, linewidths=0, label=language_label(language))
    if len(named) < len(looks):
        axes.scatter([], [], s=26, color=OTHERS, linewidths=0, label="other languages")
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower left", ncols=9, fontsize=8, handletextpad=0.2)
    legend.set_title("main language of the client", prop=FontProperties(size=8))
    legend.set_alignment("left")
