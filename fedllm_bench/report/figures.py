"""Figures of a run, each as PNG and SVG. Equal numbers give equal bytes under one version of matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedllm_bench.files import make_folder, write_bytes
from fedllm_bench.report.names import short_name
from fedllm_bench.report.results import ClientRow

# the palette of Okabe and Ito: told apart with any colour vision
COLOURS = {"before": "#999999", "after": "#0072B2", "local": "#E69F00", "train": "#56B4E9"}
SIDES = {"before": "base", "after": "after", "local": "local"}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "fedllm-bench",  # else the ids inside the SVG are random
}
METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
Heldout = tuple[int, float, float | None, float | None]
LABELLED_CLIENTS = 60  # more names than this cannot be read on one page


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure in our style, whatever the user's matplotlibrc says; inches."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height))
        yield figure, figure.add_subplot()


def _save(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """To be called inside :func:`_canvas`: saving reads the style again."""
    make_folder(out_dir)
    paths = []
    for suffix, metadata in METADATA.items():
        content = io.BytesIO()
        figure.savefig(content, format=suffix, dpi=150, metadata=metadata)
        paths.append(out_dir / f"{name}.{suffix}")
        write_bytes(paths[-1], content.getvalue())
    return paths


def short_id(client: str, length: int = 14) -> str:
    """A client id that fits on an axis and has glyphs in the default font."""
    return short_name(client, length).replace("$", r"\$")  # two dollars would begin a formula


def _title(axes: Axes, label: str, text: str) -> None:
    axes.set_title(f"{label}\n{text}" if label else text)


# --- loss over rounds


def loss_over_rounds(
    rounds: Sequence[Mapping[str, Any]],
    heldout: Sequence[Heldout],
    out_dir: Path,
    *,
    label: str = "",
    heldout_on: str = "",
) -> list[Path]:
    """Training loss of each round and held-out loss at some rounds, in nats per token.

    `rounds`: rows of rounds.jsonl with "round" and "losses" (mean loss of each client; null where it failed).
    `heldout`: (round, mean, low, high), low and high None without interval; round 0 is the base model.
    `heldout_on` says what it was computed on, as in "38 clients, 412 rows".
    """
    with _canvas(6.4, 3.8) as (figure, axes):
        per_round = _draw_rounds(axes, rounds)
        _draw_heldout(axes, heldout)
        axes.set(xlabel="round", ylabel="loss (nats per token)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
        clients = " to ".join(map(str, sorted(set(per_round))))
        on = f"; held-out: {heldout_on}" if heldout_on else ""
        _title(axes, label, f"Loss over {len(rounds)} rounds of {clients} clients{on}")
        return _save(figure, out_dir, "loss_over_rounds")


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


# --- per client


def per_client(client_rows: Sequence[ClientRow], out_dir: Path, *, label: str = "") -> list[Path]:
    """Held-out loss of each client before and after, sorted by before.

    Clients that lack one of the two are counted in the title. Up to 60 clients are named, one line each; more
    stand side by side without names.
    """
    rows = [row for row in client_rows if row.before is not None and row.after is not None]
    if not rows:
        return []
    rows.sort(key=lambda row: (row.before or 0.0, row.client))
    named = len(rows) <= LABELLED_CLIENTS
    with _canvas(*(6.4, 1.4 + 0.17 * len(rows)) if named else (8.0, 4.2)) as (figure, axes):
        (_draw_named if named else _draw_many)(axes, rows)
        figure.legend(loc="outside lower left", ncols=3, fontsize=8, markerscale=1.0 if named else 2.0)
        _title(axes, label, _per_client_text(rows, left_out=len(client_rows) - len(rows)))
        return _save(figure, out_dir, "per_client")


def _per_client_text(rows: Sequence[ClientRow], left_out: int) -> str:
    better = sum((row.after or 0.0) < (row.before or 0.0) for row in rows)
    num_rows = sum(row.n_rows for row in rows)
    lacking = f" ({left_out} more lack a score)" if left_out else ""
    return f"Held-out loss of {len(rows)} clients{lacking} on {num_rows} rows; lower after for {better}"


def _values(rows: Sequence[ClientRow]) -> dict[str, NDArray[np.float64]]:
    """Side -> one value for each row, NaN (drawn as nothing) where there is none."""
    sides = {
        "before": [row.before for row in rows],
        "after": [row.after for row in rows],
        "local": [row.local for row in rows],
    }
    return {side: np.array(values, dtype=np.float64) for side, values in sides.items()}


def _draw_named(axes: Axes, rows: Sequence[ClientRow]) -> None:
    values, y = _values(rows), np.arange(len(rows))
    axes.hlines(y, values["before"], values["after"], color="#cccccc", linewidth=1.8, zorder=2)
    _draw_points(axes, values, {"before": 26, "after": 26, "local": 22}, upright=False)
    axes.set_yticks(y, [short_id(row.client) for row in rows], fontsize=7)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("held-out loss (nats per token)")


def _draw_many(axes: Axes, rows: Sequence[ClientRow]) -> None:
    values, x = _values(rows), np.arange(len(rows))
    axes.vlines(x, values["before"], values["after"], color="#d9d9d9", linewidth=0.7, zorder=2)
    _draw_points(axes, values, {"before": 4, "after": 6, "local": 18}, upright=True)
    axes.set_xlim(-2, len(rows) + 1)
    axes.set(xlabel="clients, sorted by the loss of the base model", ylabel="held-out loss (nats per token)")


def _draw_points(
    axes: Axes, values: Mapping[str, NDArray[np.float64]], areas: Mapping[str, float], *, upright: bool
) -> None:
    """`upright`: values go up and clients go right; `areas` in points squared."""
    for side, area in areas.items():
        there = np.flatnonzero(np.isfinite(values[side]))
        if len(there):
            x, y = (there, values[side][there]) if upright else (values[side][there], there)
            name = f"trained alone ({len(there)} clients)" if side == "local" else SIDES[side]
            marker = "D" if side == "local" else "o"
            axes.scatter(x, y, s=area, c=COLOURS[side], marker=marker, linewidths=0, label=name, zorder=3)


# --- tasks


def tasks(payload: Mapping[str, Any], out_dir: Path, *, metric: str = "mini_exact", label: str = "") -> list[Path]:
    """Bars of each view of `metric`, with 95% intervals; nothing is written where there is no view."""
    prefix = f"{metric}_"
    views = {name: entry for name, entry in payload["metrics"].items() if name.startswith(prefix)}
    entries = {name.removeprefix(prefix): entry for name, entry in views.items() if entry["after"]["n"]}
    if not entries:
        return []
    sides = [side for side in SIDES if any(entry[side] for entry in entries.values())]
    with _canvas(max(5.0, 1.5 + 1.1 * len(entries)), 3.8) as (figure, axes):
        for i, side in enumerate(sides):
            shift = (i - (len(sides) - 1) / 2) * 0.28
            _draw_bars(axes, [entry[side] for entry in entries.values()], side, shift)
        axes.set_xticks(range(len(entries)), [_task_label(name, entry) for name, entry in entries.items()])
        axes.set(ylabel=f"{metric} ({next(iter(entries.values()))['unit']})", ylim=(0, 1))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        figure.legend(loc="outside lower left", ncols=len(sides), fontsize=8)
        _title(axes, label, f"{metric} by task: means over clients with 95% intervals")
        return _save(figure, out_dir, metric)


def _task_label(name: str, entry: Mapping[str, Any]) -> str:
    after = entry["after"]
    return f"{name.replace('_', ' ')}\n{after['n_scored']} items,\n{after['n']} clients"


def _draw_bars(axes: Axes, summaries: Sequence[Mapping[str, Any] | None], side: str, shift: float) -> None:
    shown = [(x + shift, s) for x, s in enumerate(summaries) if s and s["mean"] is not None]
    if not shown:
        return
    n = max(summary["n"] for _, summary in shown)
    name = f"trained alone ({n} clients)" if side == "local" else SIDES[side]
    axes.bar([x for x, _ in shown], [s["mean"] for _, s in shown], 0.26, color=COLOURS[side], label=name)
    for x, summary in shown:
        if summary["ci_low"] is not None:
            axes.vlines(x, summary["ci_low"], summary["ci_high"], color="#222222", linewidth=1.1)
