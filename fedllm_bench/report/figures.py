"""Figures of a run: loss over rounds, and tasks side by side. Those of clients are in `client_figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedllm_bench.common.text import counted, from_to
from fedllm_bench.report.legend import SIDES, after_name
from fedllm_bench.report.style import COLOURS, canvas, legend_below, save, title

Heldout = tuple[int, float, float | None, float | None]


def loss_over_rounds(
    rounds: Sequence[Mapping[str, Any]],
    heldout: Sequence[Heldout],
    out_dir: Path,
    *,
    label: str = "",
    heldout_on: str = "",
    unit: str = "nats per token",
) -> list[Path]:
    """Training loss of each round and held-out loss at some rounds, both in `unit`.

    `rounds`: rows of rounds.jsonl with "round" and "losses" (mean loss of each client; null where it failed).
    `heldout`: (round, mean, low, high), low and high None without interval; round 0 is the base model.
    `heldout_on` says what it was computed on, as in "38 clients, 412 rows".
    """
    with canvas(6.4, 3.8) as (figure, axes):
        per_round = _draw_rounds(axes, rounds)
        _draw_heldout(axes, heldout)
        axes.set(xlabel="round", ylabel=f"loss ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        legend_below(figure, ncols=2)
        of = counted(from_to(per_round), "client")
        on = f"\nheld-out: {heldout_on}" if heldout_on else ""
        title(axes, label, f"Loss over {counted(len(rounds), 'round')} of {of}{on}")
        return save(figure, out_dir, "loss_over_rounds")


def _draw_rounds(axes: Axes, rounds: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(smallest, largest) number of clients with a loss in a round."""
    losses = [(row["round"], _finite(row["losses"])) for row in rounds]
    losses = [(number, values) for number, values in losses if len(values)]
    if not losses:
        return 0, 0
    numbers = [number for number, _ in losses]
    low, high = zip(*(np.quantile(values, (0.1, 0.9)) for _, values in losses), strict=True)
    axes.fill_between(
        numbers,
        low,
        high,
        color=COLOURS["train"],
        alpha=0.3,
        linewidth=0,
        label="training, 10th to 90th percentile",
    )
    means = [values.mean() for _, values in losses]
    axes.plot(numbers, means, color=COLOURS["train"], linewidth=1.6, label="training, mean over the round's clients")
    counts = [len(values) for _, values in losses]
    return min(counts), max(counts)


def _finite(values: Sequence[float | None]) -> NDArray[np.float64]:
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return array[np.isfinite(array)]


def _draw_heldout(axes: Axes, heldout: Sequence[Heldout]) -> None:
    for number, mean, low, high in heldout:
        side, name = ("before", "base") if number == 0 else ("after", f"after round {number}")
        bars = None if low is None or high is None else [[mean - low], [high - mean]]
        text = f"held-out, {name}: {mean:.3f}" + ("" if bars is None else " [95% CI]")
        axes.axhline(mean, color=COLOURS[side], linewidth=0.8, linestyle=(0, (4, 3)))
        axes.errorbar(number, mean, bars, color=COLOURS[side], marker="o", markersize=5, capsize=3, label=text)


def tasks(payload: Mapping[str, Any], out_dir: Path, *, metric: str = "mini_exact", label: str = "") -> list[Path]:
    """Bars of each view of `metric`, with 95% intervals; nothing is written where there is no view."""
    prefix = f"{metric}_"
    views = {name: entry for name, entry in payload["metrics"].items() if name.startswith(prefix)}
    entries = {name.removeprefix(prefix): entry for name, entry in views.items() if entry["after"]["n"]}
    if not entries:
        return []
    sides = [side for side in SIDES if any(entry[side] for entry in entries.values())]
    with canvas(max(5.0, 1.5 + 1.1 * len(entries)), 3.8) as (figure, axes):
        for i, side in enumerate(sides):
            shift = (i - (len(sides) - 1) / 2) * 0.28
            name = after_name(payload) if side == "after" else SIDES[side]
            _draw_bars(axes, [entry[side] for entry in entries.values()], side, shift, name)
        axes.set_xticks(range(len(entries)), [_task_label(name, entry) for name, entry in entries.items()])
        axes.set(ylabel=f"{metric} ({next(iter(entries.values()))['unit']})", ylim=(0, 1))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        legend_below(figure, ncols=len(sides))
        title(axes, label, f"{metric} by task: means over clients with 95% intervals")
        return save(figure, out_dir, metric)


def _task_label(name: str, entry: Mapping[str, Any]) -> str:
    after = entry["after"]
    return f"{name.replace('_', ' ')}\n{counted(after['n_scored'], 'item')},\n{counted(after['n'], 'client')}"


def _draw_bars(axes: Axes, summaries: Sequence[Mapping[str, Any] | None], side: str, shift: float, name: str) -> None:
    shown = [(x + shift, s) for x, s in enumerate(summaries) if s and s["mean"] is not None]
    if not shown:
        return
    n = max(summary["n"] for _, summary in shown)
    label = f"trained alone ({counted(n, 'client')})" if side == "local" else name
    axes.bar([x for x, _ in shown], [s["mean"] for _, s in shown], 0.26, color=COLOURS[side], label=label)
    for x, summary in shown:
        if summary["ci_low"] is not None:
            axes.vlines(x, summary["ci_low"], summary["ci_high"], color="#222222", linewidth=1.1)
