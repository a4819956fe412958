"""The figure of a run that looks for its best round: validation loss over rounds (docs/cost.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from fedllm_bench.common.text import counted, number
from fedllm_bench.report.style import COLOURS, canvas, legend_below, save, title
from fedllm_bench.scores.score import LOSSES

BEST, AFTER = "#D55E00", "#999999"


def checks(payload: Mapping[str, Any], out_dir: Path, *, label: str = "") -> list[Path]:
    """Validation loss at each check, with the best round marked; nothing is written where no check has a loss."""
    stop = payload["early_stop"]
    found = [(one["round"], one["loss"]) for one in stop["checks"] if one["loss"] is not None] if stop else []
    if not found:
        return []
    rounds, losses = zip(*found, strict=True)
    unit = next((payload["metrics"][name]["unit"] for name in LOSSES.values() if name in payload["metrics"]), "nats")
    with canvas(6.4, 3.8) as (figure, axes):
        axes.plot(rounds, losses, color=COLOURS["after"], marker="o", markersize=3.5, linewidth=1.4, zorder=3,
                  label=f"validation loss, mean of {counted(stop['num_validation_clients'], 'client')}")  # fmt: skip
        axes.axvspan(stop["best_round"], max(stop["rounds_run"], stop["best_round"]), color=AFTER, alpha=0.15,
                     linewidth=0, label="rounds behind the best one")  # fmt: skip
        axes.plot(stop["best_round"], stop["best_loss"], color=BEST, marker="*", markersize=13, linestyle="none",
                  zorder=4, label=f"best: round {stop['best_round']}, {number(stop['best_loss'])}")  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="round", ylabel=f"validation loss ({unit})")
        legend_below(figure, ncols=2)
        rows = counted(stop["num_validation_rows"], "validation row")
        ran = f"{stop['rounds_run']} of {stop['rounds_asked']} rounds run"
        title(axes, label, f"{counted(len(found), 'check')} on {rows}; {ran}")
        return save(figure, out_dir, "validation_over_rounds")
