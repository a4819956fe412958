"""Figures of topics by client, and the two-dimensional maps of embeddings."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.frame import (
    COLOUR_MAP,
    LABELLED,
    MARKERS,
    OTHER,
    PALETTE,
    Drawing,
    Frame,
    Section,
)
from fedllm_bench.report.diversity.sunburst import topic_label

SHOWN_TOPICS = 40
FROM_RASTER = 300  # points; as vectors more of them make an SVG that browsers are slow with


def topics_by_client(frame: Frame) -> Drawing | None:
    """What share of each client's rows is of which topic; clients in the order of the clustering."""
    section = frame.section("instruction")
    if section is None or not section["topics"] or not any(client.get("topics") for client in frame.clients):
        return None
    topics = sorted(section["topics"], key=lambda topic: (-topic["rows"], topic["id"]))[:SHOWN_TOPICS]
    by_id = {client["id"]: client for client in frame.clients}
    embedding = frame.section("embedding")
    order = [c for c in (embedding["order"] if embedding else by_id) if c in by_id]
    counts = np.array([[(by_id[c].get("topics") or {}).get(t["id"], 0) for c in order] for t in topics], dtype=float)
    total = np.array([max(sum((by_id[c].get("topics") or {}).values()), 1) for c in order], dtype=float)
    named = len(order) <= LABELLED
    width = max(7.0, 3.2 + 0.155 * len(order)) if named else 8.8
    title = (
        f"{counted(len(section['topics']), 'topic')} over {counted(len(order), 'client')}: "
        f"client and topic share {section['mutual_information']:.2f} of {section['topic_entropy']:.2f} bits"
    )
    with frame.sheet(width, 2.2 + 0.2 * len(topics) + (0.5 if named else 0)) as sheet:
        axes = sheet.axes[0, 0]
        image = axes.imshow(counts / total, cmap=COLOUR_MAP, vmin=0, aspect="auto", interpolation="nearest")
        sheet.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, label="share of the client's rows")
        axes.set_yticks(range(len(topics)), [topic_label(frame, topic, 3) for topic in topics], fontsize=7)
        _name_clients(axes, [frame.names[c] for c in order] if named else None)
        return frame.finish(sheet, ("topics_by_client", "Topics by client", title), section)


def _name_clients(axes: Axes, names: list[str] | None) -> None:
    axes.tick_params(axis="both", length=0)
    axes.grid(visible=False)
    if names is None:
        axes.set_xticks([])
        axes.set_xlabel("clients, in the order of the clustering")
    else:
        axes.set_xticks(range(len(names)), names, fontsize=6.5, rotation=90)


def map_by_language(frame: Frame) -> Drawing | None:
    """Each row of the sample as a point, by its language."""
    section = frame.section("embedding")
    if section is None:
        return None
    codes = np.array(section["map"]["language"])
    shown = [code for code in frame.languages if (codes == code).any()]
    groups = {code: np.flatnonzero(codes == code) for code in shown}
    looks = {code: frame.languages[code] for code in shown}
    title = f"{len(codes):,} rows in {counted(len(shown), 'language')}"
    return _map(frame, section, ("map_by_language", "Map of embeddings by language", title), groups, looks)


def map_by_client(frame: Frame) -> Drawing | None:
    """The same points by client: the eight with most points in colours, the others grey."""
    section = frame.section("embedding")
    if section is None:
        return None
    owner = np.array(section["map"]["client"], dtype=int)
    count = np.bincount(owner, minlength=len(frame.clients))
    largest = [int(i) for i in np.argsort(-count, kind="stable")[: len(PALETTE)] if count[i]]
    ids = [client["id"] for client in frame.clients]
    groups = {"": np.flatnonzero(~np.isin(owner, largest))}
    looks = {"": (f"{counted(int((count > 0).sum()) - len(largest), 'other client')}", OTHER, ".")}
    for i, client in enumerate(largest):
        groups[ids[client]] = np.flatnonzero(owner == client)
        looks[ids[client]] = (frame.names[ids[client]], PALETTE[i], MARKERS[i])
    groups = {key: rows for key, rows in groups.items() if len(rows)}
    title = f"{len(owner):,} rows of {counted(int((count > 0).sum()), 'client')}; those with most points in colours"
    return _map(frame, section, ("map_by_client", "Map of embeddings by client", title), groups, looks)


def _map(
    frame: Frame,
    section: Section,
    told: tuple[str, str, str],
    groups: dict[str, NDArray[np.intp]],
    looks: dict[str, tuple[str, str, str]],
) -> Drawing:
    """`told`: name, heading and title of the figure. PCA at the left, t-SNE at the right where it was computed."""
    found = section["map"]
    projections = {name: np.array(found[name]) for name in ("pca", "tsne") if found[name] is not None}
    share = sum(found["explained"])
    titles = {"pca": f"PCA, {share:.0%} of the variance", "tsne": "t-SNE: neighbours count, distances do not"}
    with frame.sheet(8.6 if len(projections) > 1 else 5.2, 5.0, shape=(1, len(projections))) as sheet:
        for axes, (name, points) in zip(sheet.axes.flat, projections.items(), strict=True):
            _scatter(axes, points, groups, looks)
            axes.set_title(titles[name])
        return frame.finish(sheet, told, section, [_mark(*looks[key]) for key in groups])


def _scatter(
    axes: Axes,
    points: NDArray[np.float64],
    groups: dict[str, NDArray[np.intp]],
    looks: dict[str, tuple[str, str, str]],
) -> None:
    many = len(points) > FROM_RASTER
    for key, rows in groups.items():
        _, colour, mark = looks[key]
        axes.scatter(
            points[rows, 0],
            points[rows, 1],
            s=10 if many else 16,
            c=colour,
            marker=mark,
            linewidths=0,
            alpha=0.4 if colour == OTHER else 0.75,
            rasterized=many,
        )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)


def _mark(name: str, colour: str, mark: str) -> Artist:
    return Line2D([], [], color=colour, marker=mark, linestyle="", markersize=6, label=name)
