"""Figures of clients over rounds and of personalisation, both of held-out loss (docs/clients.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from fedllm_bench.common.text import counted, from_to, number, signed
from fedllm_bench.report.names import LOSS_NAMES
from fedllm_bench.report.style import COLOURS, canvas, legend_below, save, title
from fedllm_bench.results.distribution import EQUAL

WORST, UNSEEN = "#D55E00", "#009E73"  # Okabe and Ito, as the colours of `style`
GAINED, LOST, STAYED = "#0072B2", "#D55E00", "#999999"
FEW_CLIENTS = 100  # more than these are drawn with smaller marks


def heldout_bands(payload: Mapping[str, Any], out_dir: Path, *, label: str = "") -> list[Path]:
    """Held-out loss over rounds: median, 10th to 90th percentile and worst tenth of clients, and unseen users.

    Nothing is written where no client was scored over the rounds.
    """
    found = payload["over_rounds"]
    rows = [row for row in found["rounds"] if row["heldout"]["n"]] if found else []
    if not rows:
        return []
    with canvas(6.4, 4.0) as (figure, axes):
        _draw_band(axes, rows)
        _draw_unseen(axes, rows)
        axes.axhline(rows[0]["heldout"]["median"], color=COLOURS["before"], linewidth=0.9, linestyle=(0, (4, 3)),
                     label="base, median", zorder=1)  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set(xlabel="round", ylabel=f"{LOSS_NAMES[found['metric']]} ({found['unit']})")
        legend_below(figure, ncols=2)
        clients = counted(from_to(row["heldout"]["n"] for row in rows), "client")
        what = f"{LOSS_NAMES[found['metric']].capitalize()} over {clients}"
        title(axes, label, f"{what}, every {counted(found['every'], 'round')}")
        return save(figure, out_dir, "heldout_over_rounds")


def _draw_band(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    rounds = [row["round"] for row in rows]
    values = {key: [row["heldout"][key] for row in rows] for key in ("p10", "median", "p90", "worst_tenth")}
    axes.fill_between(rounds, values["p10"], values["p90"], color=COLOURS["after"], alpha=0.18, linewidth=0,
                      label="10th to 90th percentile")  # fmt: skip
    last = number(values["median"][-1])
    axes.plot(rounds, values["median"], color=COLOURS["after"], marker="o", markersize=4, linewidth=1.6,
              label=f"median of clients, at the end {last}", zorder=4)  # fmt: skip
    last = number(values["worst_tenth"][-1])
    axes.plot(rounds, values["worst_tenth"], color=WORST, marker="^", markersize=4, linewidth=1.2,
              label=f"mean of the worst tenth, at the end {last}", zorder=3)  # fmt: skip


def _draw_unseen(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Users without training rows: their mean, since they are few."""
    points = [(row["round"], row["unseen"]["mean"]) for row in rows if row["unseen"]["mean"] is not None]
    if not points:
        return
    users = counted(from_to(row["unseen"]["n"] for row in rows if row["unseen"]["n"]), "unseen user")
    rounds, means = zip(*points, strict=True)
    axes.plot(rounds, means, color=UNSEEN, marker="s", markersize=3.5, linewidth=1.2, linestyle=(0, (5, 2)),
              label=f"mean of {users}, at the end {number(means[-1])}", zorder=3)  # fmt: skip


def personal_gain(payload: Mapping[str, Any], out_dir: Path, *, label: str = "") -> list[Path]:
    """What personalisation changed for each client, against its number of training rows."""
    found = payload["personalisation"]
    rows = found["clients"] if found else []
    rows = [row for row in rows if row["before"] is not None and row["after"] is not None]
    if not rows:
        return []
    with canvas(6.4, 4.0) as (figure, axes):
        changes = _draw_gains(axes, rows)
        mean = float(changes.mean())
        axes.axhline(mean, color="#222222", linewidth=0.9, linestyle=(0, (4, 3)), label=f"mean {signed(mean)}")
        _size_axis(axes, [row["num_train_rows"] for row in rows])
        axes.set(ylabel=f"change of {LOSS_NAMES[found['metric']]}\n({found['heldout']['unit']}; below 0 is a gain)")
        _gain_legend(figure)
        steps = f"{counted(found['steps'], 'local step')} at a rate of {found['lr']:.2g}"
        title(axes, label, f"Personalisation of {counted(len(rows), 'client')}: {steps}")
        return save(figure, out_dir, "personalisation")


def _draw_gains(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The changes, shape (N,); a mark's shape says the same as its colour."""
    sizes = np.array([row["num_train_rows"] for row in rows], dtype=np.float64)
    before, after = (np.array([row[side] for row in rows], dtype=np.float64) for side in ("before", "after"))
    changes, same = after - before, EQUAL * np.maximum(np.abs(before), np.abs(after))
    area, alpha = (26, 0.8) if len(rows) <= FEW_CLIENTS else (9, 0.55)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "gained": (changes < -same, {"marker": "o", "color": GAINED}),
        "lost": (changes > same, {"marker": "^", "color": LOST}),
        "equal": (np.abs(changes) <= same, {"marker": "s", "color": STAYED}),
    }
    axes.axhline(0, color="#222222", linewidth=0.9)
    for name, (there, style) in kinds.items():
        if there.any():
            text = f"{name}: {counted(int(there.sum()), 'client')}"
            axes.scatter(sizes[there], changes[there], s=area, alpha=alpha, linewidths=0, label=text, zorder=3, **style)
    return changes


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Logarithmic with plain numbers: sizes of clients span decades."""
    axes.set_xscale("log")
    axes.set(xlabel="training rows of the client")
    narrow = max(sizes) < 30 * max(min(sizes), 1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _gain_legend(figure: Figure) -> None:
    legend = legend_below(figure, ncols=4)
    for handle in legend.legend_handles if legend else ():
        if handle is not None:
            handle.set_alpha(1)
