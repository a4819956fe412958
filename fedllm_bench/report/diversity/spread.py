"""Figures of pairs of clients and of the index of heterogeneity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.frame import (
    COLOUR_MAP,
    INK,
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
)
from fedllm_bench.report.diversity.summary import p_text

INDEXES = {"index": "among alike rows", "index_unstratified": "among all rows"}


def similarity(frame: Frame) -> Drawing | None:
    """Cosine similarity of the mean embeddings of clients, in the order of the clustering; languages at the left."""
    section = frame.section("embedding")
    if section is None or frame.arrays is None or section["similarity"]["mean"] is None:
        return None
    place = {client["id"]: i for i, client in enumerate(frame.clients)}
    order = [place[client] for client in section["order"]]
    values = np.asarray(frame.arrays.similarity, dtype=float)[np.ix_(order, order)]
    clients = [frame.clients[i] for i in order]
    clusters, found = section["clusters"], section["similarity"]
    title = (
        f"Similarity of {counted(len(clients), 'client')}: mean {found['mean']:.2f}, from {found['least']:.2f} to "
        f"{found['largest']:.2f}; {counted(clusters['number'], 'cluster')}"
    )
    named = len(clients) <= LABELLED
    side = max(4.6, 0.155 * len(clients)) if named else 6.4
    with frame.sheet(side + 2.4, side + 1.4, shape=(1, 2), width_ratios=[1, 28], sharey=True) as sheet:
        strip, axes = sheet.axes.flat
        _draw_strip(strip, frame, clients)
        off = values[~np.eye(len(values), dtype=bool)]
        low, high = (float(np.nanmin(off)), float(np.nanmax(off))) if np.isfinite(off).any() else (0.0, 1.0)
        image = axes.imshow(values, cmap=COLOUR_MAP, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        sheet.figure.colorbar(image, ax=axes, fraction=0.035, pad=0.02, label="cosine similarity of mean embeddings")
        _draw_borders(axes, [clusters["labels"][i] for i in order])
        _name_both(strip, axes, [frame.names[client["id"]] for client in clients] if named else None)
        return frame.finish(
            sheet, ("similarity", "Similarity of clients", title), _with_rule(section), language_legend(frame)
        )


def _with_rule(section: Section) -> Section:
    on = section["computed_on"]
    return {"computed_on": {**on, "what": f"{on['what']}; clusters: {section['clusters']['rule']}"}}


def _draw_strip(axes: Axes, frame: Frame, clients: Sequence[Client]) -> None:
    """The main language of each client, as a column of colours."""
    colours = [frame.colour(client["main_language"]) for client in clients]
    axes.imshow(
        np.arange(len(clients))[:, None],
        cmap=ListedColormap(colours),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_xticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_borders(axes: Axes, labels: Sequence[int]) -> None:
    """Lines where the cluster changes."""
    changes = [i - 0.5 for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
    axes.hlines(changes, -0.5, len(labels) - 0.5, color="#fdfdfd", linewidth=0.8)
    axes.vlines(changes, -0.5, len(labels) - 0.5, color="#fdfdfd", linewidth=0.8)
    axes.grid(visible=False)


def _name_both(strip: Axes, axes: Axes, names: Sequence[str] | None) -> None:
    axes.tick_params(axis="both", length=0, labelleft=False)
    strip.tick_params(axis="both", length=0)
    if names is None:
        strip.set_yticks([])
        axes.set_xticks([])
        axes.set_xlabel("clients, in the same order")
        strip.set_ylabel("clients, in the order of the clustering")
        return
    strip.set_yticks(range(len(names)), names, fontsize=6.5)
    axes.set_xticks(range(len(names)), names, fontsize=6.5, rotation=90)


def distance_to_rest(frame: Frame) -> Drawing | None:
    """How far each client's rows are from those of all others: the crowd at the left."""
    section = frame.section("embedding")
    clients = [client for client in frame.clients if client.get("distance_to_rest") is not None]
    if section is None or not clients:
        return None
    clients.sort(key=lambda client: (client["distance_to_rest"], client["id"]))
    values = np.array([client["distance_to_rest"] for client in clients])
    none = len(frame.clients) - len(clients)
    lacking = f"; {counted(none, 'client')} with too few rows left out" if none else ""
    title = f"Distance of {counted(len(clients), 'client')} from all others: median {np.median(values):.3f}{lacking}"
    named, colours = len(clients) <= LABELLED, [frame.colour(client["main_language"]) for client in clients]
    with frame.sheet(*(6.8, height_of(len(clients))) if named else (8.4, 4.2)) as sheet:
        axes = sheet.axes[0, 0]
        if named:
            axes.hlines(range(len(values)), 0, values, color=colours, linewidth=1.4)
            axes.scatter(values, range(len(values)), s=20, c=colours, zorder=3)
            clients_upwards(axes, [frame.names[client["id"]] for client in clients])
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_xlabel("MMD² to the rows of all other clients, unbiased (0: no difference; may be below)")
        else:
            axes.scatter(range(1, len(values) + 1), values, s=9, c=colours, linewidths=0)
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set(xlabel="clients, nearest to the crowd first", ylabel="MMD² to all others, unbiased")
        told = ("distance_to_rest", "Distance of each client from the rest", title)
        return frame.finish(sheet, told, section, language_legend(frame))


def heterogeneity(frame: Frame) -> Drawing | None:
    """The index of heterogeneity among what rows dealt to users at random give, stratified and not."""
    section = frame.section("embedding")
    if section is None:
        return None
    shown = {key: name for key, name in INDEXES.items() if section.get(key)}
    with frame.sheet(8.4, 3.7, shape=(1, len(shown))) as sheet:
        for axes, key in zip(sheet.axes.flat, shown, strict=True):
            _draw_index(axes, section[key])
        told = ("heterogeneity", "Are these users more than random groups?", _verdict(section["index"]))
        return frame.finish(sheet, told, section)


def _verdict(index: Mapping[str, Any]) -> str:
    if index["value"] is None:
        return "No index of heterogeneity: no stratum has rows of two clients"
    if index["p_value"] is None:
        return f"Index of heterogeneity within {_within(index)}: {index['value']:.3f}, not tested"
    told = "differ from" if index["rejected_at_0.05"] else "cannot be told from"
    return f"Users {told} random users of {_within(index)}: index {index['value']:.3f}{p_text(index)}"


def _within(index: Mapping[str, Any]) -> str:
    return f"the same {' and '.join(index['stratified_by'])}" if index["stratified_by"] else "the whole split"


def _draw_index(axes: Axes, index: Mapping[str, Any]) -> None:
    bins = np.array(index["null"]["histogram"] if index.get("null") else [], dtype=float).reshape(-1, 3)
    axes.bar(bins[:, 0], bins[:, 2], bins[:, 1] - bins[:, 0], align="edge", color=OTHER, label="random users")
    by = " and ".join(index["stratified_by"])
    title = f"within {by}: {index['strata_used']} of {index['strata']} strata" if by else "not stratified"
    axes.set_title(f"{title}, {index['rows_used']:,} rows")
    axes.set(xlabel="index of heterogeneity (0: identical, 1: no overlap)", ylabel="permutations")
    if index["value"] is None:
        return
    value, se = index["value"], index["se"] or 0.0
    axes.axvspan(value - se, value + se, color=PALETTE[3], alpha=0.25, linewidth=0)
    label = f"these users: {value:.3f} ± {se:.3f}{p_text(index).replace(', ', chr(10), 1)}"
    axes.axvline(value, color=PALETTE[3], linewidth=1.8, label=label)
    axes.margins(y=0.35)
    axes.legend(fontsize=7.5, loc="upper center")
