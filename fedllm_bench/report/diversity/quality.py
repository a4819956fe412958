"""Figures of quality (IFD, duplicates) and of preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.frame import INK, LABELLED, OTHER, PALETTE, Client, Drawing, Frame, Section
from fedllm_bench.report.diversity.summary import effect

DUPLICATES = {
    "exact_duplicates": "equal to another row",
    "near_duplicates": "nearly equal to another",
    "shared_across_clients": "shared by clients",
}


def quality(frame: Frame) -> Drawing | None:
    """IFD of each client with its spread over rows, and shares of rows that repeat others."""
    section = frame.section("quality")
    if section is None:
        return None
    clients = [client for client in frame.clients if client.get("ifd") and client["ifd"]["mean"] is not None]
    ifd = section.get("ifd")
    told = f"IFD {ifd['mean']:.2f} ± {ifd['sd']:.2f} by {section['model']}" if ifd else "no IFD"
    title = (
        f"{told}; {section['exact_duplicates']:.1%} of rows are copies, {section['near_duplicates']:.1%} near copies"
    )
    shape = {"shape": (1, 2), "width_ratios": [2.2, 1]} if clients else {"shape": (1, 1)}
    with frame.sheet(8.4 if clients else 5.2, 3.9, **shape) as sheet:
        if clients:
            _draw_ifd(sheet.axes[0, 0], clients)
        _draw_duplicates(sheet.axes[0, -1], section)
        return frame.finish(sheet, ("quality", "Quality: IFD and duplicates", title), section)


def _draw_ifd(axes: Axes, clients: Sequence[Client]) -> None:
    found = sorted((c["ifd"] for c in clients), key=lambda ifd: ifd["mean"])
    at, mean = np.arange(1, len(found) + 1), np.array([ifd["mean"] for ifd in found])
    sd = np.array([ifd["sd"] or 0.0 for ifd in found])
    few = len(found) <= LABELLED
    label = "± one standard deviation of its rows"
    axes.vlines(at, mean - sd, mean + sd, color=OTHER, linewidth=1.6 if few else 0.5, label=label)
    axes.scatter(at, mean, s=14 if few else 4, color=PALETTE[0], linewidths=0, zorder=3, label="mean of a client")
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate("1: the prompt does not help", (1, 1), (0, 2), textcoords="offset points", va="bottom", fontsize=7.5)
    axes.set(xlabel=f"{counted(len(found), 'client')}, by mean", ylabel="IFD")
    axes.legend(fontsize=7.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # over no client


def _draw_duplicates(axes: Axes, section: Section) -> None:
    values = [section[key] for key in DUPLICATES]
    axes.barh(range(len(values)), values, color=PALETTE[0])
    for i, value in enumerate(values):
        axes.annotate(f" {value:.1%}", (value, i), va="center", fontsize=8)
    axes.set_yticks(range(len(values)), [name.replace(" ", "\n", 1) for name in DUPLICATES.values()], fontsize=7.5)
    axes.set(xlabel="share of rows", xlim=(0, max(*values, 0.01) * 1.3))
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)


def preference(frame: Frame) -> Drawing | None:
    """What the chosen answer has more of than the rejected one: over all rows, and the clients as dots below."""
    section = frame.section("preference")
    found = {name: one for name, one in (section or {"features": {}})["features"].items() if one["mean"] is not None}
    features = {name: one for name, one in found.items() if not _is_the_same(one)} or found
    if section is None or not features:
        return None
    sure = sum(one["low"] > 0 or one["high"] < 0 for one in features.values() if one["low"] is not None)
    title = f"Chosen against rejected: {sure} of {counted(len(found), 'feature')} differ; {_agreement(section)}"
    if same := [name.replace("_", " ") for name in found if name not in features]:
        title += f"; equal in every pair: {', '.join(same)}"
    with frame.sheet(7.6, 1.2 + 0.78 * len(features), shape=(len(features), 1)) as sheet:
        for axes, (name, one) in zip(sheet.axes.flat, features.items(), strict=True):
            own = [client["preference"][name] for client in frame.clients if name in (client.get("preference") or {})]
            _draw_feature(axes, name, one, own)
        return frame.finish(sheet, ("preference", "Preference: what the chosen has more of", title), section)


def _is_the_same(found: Mapping[str, Any]) -> bool:
    """Whether chosen and rejected never differ: an empty panel would only take room."""
    return bool(found["mean"] == found["low"] == found["high"] == found["share_chosen_more"] == 0)


def _agreement(section: Section) -> str:
    found = section.get("agreement") or {"skipped": ""}
    if "skipped" in found:
        return "agreement of users not measured"
    told = f"users agree on {found['agree']:.0%} of {found['pairs']:,} shared pairs"
    return f"{told} ({found['expected_by_chance']:.0%} by chance)"


def _draw_feature(axes: Axes, name: str, found: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> None:
    means = np.array([one["mean"] for one in clients if one["mean"] is not None], dtype=float)
    shift = np.random.default_rng(0).uniform(-0.75, -0.25, size=len(means))  # dots on a line would hide each other
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.scatter(means, shift, s=9, color=OTHER, linewidths=0, alpha=0.8)
    if found["low"] is not None:
        axes.plot([found["low"], found["high"]], [0.3, 0.3], color=PALETTE[0], linewidth=2.4)
    axes.scatter([found["mean"]], [0.3], s=26, color=PALETTE[0], zorder=3)
    axes.set(ylim=(-1, 0.8), yticks=[])
    _limit(axes, means, found)
    bounds = "no interval" if found["low"] is None else f"{effect(found['low'])}, {effect(found['high'])}"
    span = f"{effect(found['mean'])} [{bounds}]"
    more = f"more in {found['share_chosen_more']:.0%} of {found['n']:,} pairs"
    axes.set_title(f"{name.replace('_', ' ')}: {span} {found['unit']}; {more}", fontsize=8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.tick_params(axis="x", labelsize=7)
    axes.spines["left"].set_visible(False)


def _limit(axes: Axes, means: np.ndarray, found: Mapping[str, Any]) -> None:
    """Wide enough for the interval and 95% of the clients; a client of one row would squeeze the rest."""
    inner = np.quantile(means, [0.025, 0.975]).tolist() if len(means) else []
    values = [0.0, *(value for value in (found["mean"], found["low"], found["high"]) if value is not None), *inner]
    margin = 0.06 * (max(values) - min(values)) or 1.0
    axes.set_xlim(min(values) - margin, max(values) + margin)
