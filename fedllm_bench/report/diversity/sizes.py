"""Figures of quantity, length and language: how many rows, how long, in what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.frame import (
    LABELLED,
    OTHER,
    PALETTE,
    Client,
    Drawing,
    Frame,
    Section,
    clients_upwards,
    height_of,
    language_legend,
    plain_log,
)

BLUE, ORANGE = PALETTE[0], PALETTE[1]
TEXTS = ("prompt", "completion")


def quantity(frame: Frame) -> Drawing | None:
    """Rows of each client, largest first, and the Lorenz curve of what share of clients has what share of rows."""
    section = frame.section("quantity")
    if section is None:
        return None
    sizes = np.sort([client["rows"] for client in frame.clients])
    title = (
        f"{counted(len(sizes), 'client')}, equal in effect to {section['effective_clients']:.1f}; "
        f"Gini {section['gini']:.2f}; the largest has {section['largest_share']:.1%} of the rows"
    )
    with frame.sheet(8.4, 3.6, shape=(1, 2), width_ratios=[1.7, 1]) as sheet:
        _draw_sizes(sheet.axes[0, 0], sizes[::-1])
        _draw_lorenz(sheet.axes[0, 1], sizes)
        return frame.finish(sheet, ("quantity", "Quantity: rows of each client", title), section)


def _draw_sizes(axes: Axes, sizes: np.ndarray) -> None:
    axes.bar(range(1, len(sizes) + 1), sizes, width=1.0 if len(sizes) > LABELLED else 0.8, color=BLUE)
    middles = {"mean": (float(sizes.mean()), "-"), "median": (float(np.median(sizes)), (0, (4, 3)))}
    for name, (value, dashes) in middles.items():
        axes.axhline(value, color=ORANGE, linewidth=1.4, linestyle=dashes, label=f"{name} {value:,.0f}")
    axes.legend(fontsize=7.5, loc="upper right")
    axes.set(xlabel="clients, largest first", ylabel="rows", xlim=(0.3, len(sizes) + 0.7))
    axes.grid(axis="x", visible=False)


def _draw_lorenz(axes: Axes, sizes: np.ndarray) -> None:
    x = np.arange(len(sizes) + 1) / len(sizes)
    axes.plot([0, 1], [0, 1], color=OTHER, linewidth=1, linestyle=(0, (4, 3)), label="all clients equal")
    axes.plot(x, np.concatenate([[0], np.cumsum(sizes)]) / sizes.sum(), color=BLUE, label="these clients")
    axes.set(xlabel="share of clients, smallest first", ylabel="share of rows", xlim=(0, 1), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=7.5, loc="upper left")


def length(frame: Frame) -> Drawing | None:
    """How long prompts and completions of each client are: median, mean and the range, on a logarithmic axis."""
    section = frame.section("length")
    if section is None:
        return None
    unit = "tokens" if all(f"prompt_{'tokens'}" in client for client in frame.clients) else "characters"
    clients = sorted(frame.clients, key=lambda client: (client[f"prompt_{unit}"]["median"], client["id"]))
    of = f" of {section['unit_tokens']}" if unit == "tokens" else ""
    middles = [f"{text} median {section[f'{text}_{unit}']['median']:,.0f}" for text in TEXTS]
    named = len(clients) <= LABELLED
    with frame.sheet(*(8.4, height_of(len(clients))) if named else (8.4, 5.6), **_shared(named)) as sheet:
        for axes, text in zip(sheet.axes.flat, TEXTS, strict=True):
            _draw_lengths(axes, [client[f"{text}_{unit}"] for client in clients], upright=not named)
            (axes.set_ylabel if not named else axes.set_xlabel)(f"{text}, {unit}")
        if named:
            clients_upwards(sheet.axes[0, 0], [frame.names[client["id"]] for client in clients])
        else:
            sheet.axes[-1, 0].set_xlabel("clients, by the median length of their prompts")
        handles, _ = sheet.axes.flat[0].get_legend_handles_labels()
        told = ("length", "Length of prompts and completions", f"{unit}{of}: {', '.join(middles)}")
        return frame.finish(sheet, told, section, handles)


def _shared(named: bool) -> dict[str, Any]:
    return {"shape": (1, 2), "sharey": True} if named else {"shape": (2, 1), "sharex": True}


def _draw_lengths(axes: Axes, spreads: Sequence[dict[str, float]], *, upright: bool) -> None:
    at = np.arange(len(spreads))
    low, high, mean, median = (
        np.maximum([spread[key] for spread in spreads], 1) for key in ("least", "largest", "mean", "median")
    )
    thin = upright
    lines = axes.vlines if upright else axes.hlines
    lines(at, low, high, color=OTHER, linewidth=0.5 if thin else 1.6, alpha=0.7, label="shortest to longest")
    for values, colour, mark, name in ((median, BLUE, "o", "median"), (mean, ORANGE, "D", "mean")):
        x, y = (at, values) if upright else (values, at)
        axes.scatter(x, y, s=3 if thin else 14, color=colour, marker=mark, linewidths=0, zorder=3, label=name)
    (axes.set_yscale if upright else axes.set_xscale)("log")
    plain_log(axes.yaxis if upright else axes.xaxis)
    if upright:
        axes.set_xlim(-2, len(spreads) + 1)


def language(frame: Frame) -> Drawing | None:
    """Rows of each language, and what share of each client's rows is in which."""
    section = frame.section("language")
    if section is None:
        return None
    rank = {code: i for i, code in enumerate(frame.languages)}
    clients = sorted(
        frame.clients, key=lambda client: (rank.get(client["main_language"], 99), *_shares_order(client, rank))
    )
    title = (
        f"{counted(len(section['rows']), 'language')}, entropy {section['entropy']:.2f} bits; "
        f"{section['num_monolingual_clients']} of {counted(len(clients), 'client')} use one language only"
    )
    named = len(clients) <= LABELLED
    size = (8.4, height_of(len(clients))) if named else (8.4, 6.2)
    with frame.sheet(*size, shape=(1, 2) if named else (2, 1), **_ratios(named)) as sheet:
        _draw_totals(sheet.axes.flat[0], frame, section)
        _draw_shares(sheet.axes.flat[1], frame, clients, upright=not named)
        if named:
            clients_upwards(sheet.axes.flat[1], [frame.names[client["id"]] for client in clients])
        return frame.finish(sheet, ("language", "Languages of clients", title), section, language_legend(frame))


def _ratios(named: bool) -> dict[str, Any]:
    return {"width_ratios": [1, 1.9]} if named else {"height_ratios": [1, 1.1]}


def _shares_order(client: Client, rank: dict[str, int]) -> tuple[float, str]:
    main = client["languages"].get(client["main_language"], 0) / max(client["rows"], 1)
    return -main, client["id"]


def _draw_totals(axes: Axes, frame: Frame, section: Section) -> None:
    rows = sorted(section["rows"].items(), key=lambda item: (-item[1], item[0]))[:20]
    labels = [frame.languages[code][0] if code in frame.languages else code for code, _ in rows]
    axes.barh(range(len(rows)), [n for _, n in rows], color=[frame.colour(code) for code, _ in rows])
    clients_upwards(axes, labels)
    axes.set_xlabel("rows")


def _draw_shares(axes: Axes, frame: Frame, clients: Sequence[Client], *, upright: bool) -> None:
    done, at = np.zeros(len(clients)), np.arange(len(clients))
    for code in frame.languages:
        share = np.array([client["languages"].get(code, 0) / max(client["rows"], 1) for client in clients])
        look: dict[str, Any] = {"color": frame.colour(code), "linewidth": 0}
        if upright:  # one shape for all clients: hundreds of bars take seconds
            edges = np.repeat(np.arange(len(clients) + 1) - 0.5, 2)[1:-1]
            axes.fill_between(edges, np.repeat(done, 2), np.repeat(done + share, 2), **look)
        else:
            axes.barh(at, share, left=done, **look)
        done += share
    along = axes.yaxis if upright else axes.xaxis
    along.set_major_formatter(PercentFormatter(1))
    if upright:
        axes.set(xlim=(-0.5, len(clients) - 0.5), ylim=(0, 1), ylabel="share of the client's rows", xlabel="clients")
    else:
        axes.set(xlim=(0, 1), xlabel="share of the client's rows")
    axes.grid(visible=False)
