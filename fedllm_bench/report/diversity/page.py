"""diversity.html: one static page that asks nothing of any host and escapes whatever a user wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from fedllm_bench.common.text import counted
from fedllm_bench.report.diversity.against import measures_table, side_names
from fedllm_bench.report.diversity.drawing import CAPTIONS
from fedllm_bench.report.diversity.frame import GRID, INK, PAPER, Drawing, Frame
from fedllm_bench.report.diversity.summary import findings, skipped
from fedllm_bench.report.page import parts
from fedllm_bench.report.page.browser import language_label
from fedllm_bench.report.page.parts import environment, own_file

TOPICS_UNDER = "instruction_sunburst"


@dataclass(frozen=True, kw_only=True)
class PageColumn:
    name: str
    value: Callable[[Mapping[str, Any]], Any]
    show: Callable[[Any], str]
    number: bool = True


@dataclass(frozen=True)
class SortableCell:
    """`key` is what the column is sorted by; "" where there is nothing."""

    text: str
    key: str
    number: bool


def _inner(group: str, name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda client: (client.get(group) or {}).get(name)


def _three(value: float) -> str:
    return f"{value:.3f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.1%}"


COLUMNS = (
    PageColumn(name="rows", value=lambda c: c["rows"], show=_count),
    PageColumn(name="share", value=lambda c: c["share"], show=_share),
    PageColumn(name="main language", value=lambda c: c["main_language"], show=language_label, number=False),
    PageColumn(name="languages (bits)", value=lambda c: c["language_entropy"], show=_three),
    PageColumn(name="prompt, median characters", value=_inner("prompt_characters", "median"), show=_count),
    PageColumn(name="completion, median characters", value=_inner("completion_characters", "median"), show=_count),
    PageColumn(name="prompt, median tokens", value=_inner("prompt_tokens", "median"), show=_count),
    PageColumn(name="completion, median tokens", value=_inner("completion_tokens", "median"), show=_count),
    PageColumn(name="MMD² to the rest", value=lambda c: c.get("distance_to_rest"), show=_three),
    PageColumn(name="cluster", value=lambda c: c.get("cluster"), show=str),
    PageColumn(name="IFD", value=_inner("ifd", "mean"), show=_three),
    PageColumn(name="repeated rows", value=lambda c: c.get("duplicate_share"), show=_share),
)


def page_of(frame: Frame, drawings: Sequence[Drawing]) -> str:
    """The page; the figures' SVG files are read from the frame's folder."""
    report = frame.report
    columns = [column for column in COLUMNS if any(column.value(client) is not None for client in frame.clients)]
    template = environment().get_template("diversity.html.jinja")
    text: str = template.render(
        title=report["split"]["name"],
        facts=facts_of(report),
        notes=[frame.letters.warning] if frame.letters.warning else [],
        policy=policy(),
        style=Markup(own_file("report.css") + own_file("diversity.css")),
        script=Markup(own_file("diversity.js")),
        findings=findings(report),
        skipped=skipped(report),
        figures=[_figure(frame, drawing) for drawing in drawings],
        columns=columns,
        rows=[_row(columns, client) for client in frame.clients],
        clients_note=f"{counted(len(frame.clients), 'client')}; a click on a heading sorts. Also in clients.csv.",
        sides=side_names(report) if report.get("against") else {},
        measures=measures_table(report),
        footer=settings_of(report),
    )
    return text


def policy() -> str:
    """Nothing but the page's own style, its one script and images inside the figures."""
    return parts.policy([own_file("diversity.js")], images="data:")


def facts_of(report: Mapping[str, Any]) -> str:
    split = report["split"]
    rows, clients = f"{split['rows']:,} rows", counted(split["clients"], "client")
    return f"{rows} of {clients} · data set {split['dataset']} · task {split['task']} · split {split['hash'][:16]}"


def settings_of(report: Mapping[str, Any]) -> list[str]:
    """What it was computed with, one line each."""
    settings = report["settings"]
    embedder = settings["embedder"]
    lines = []
    if embedder:
        cut = embedder["truncated_rows"]
        until = f", texts cut at {embedder['max_tokens']} tokens ({cut:,} were)" if embedder["max_tokens"] else ""
        lines.append(f"Embeddings: {embedder['id']}, {embedder['dimensions']} dimensions{until}.")
    lines += [f"Tokens: {settings['tokenizer']}."] if settings["tokenizer"] else []
    lines += [f"IFD by {settings['quality_model']}."] if settings["quality_model"] else []
    most = f"; models read at most {settings['max_rows']:,} rows" if settings["max_rows"] else ""
    return [*lines, f"Seed {settings['seed']}, {settings['permutations']} permutations{most}. Numbers: diversity.json."]


def _figure(frame: Frame, drawing: Drawing) -> dict[str, Any]:
    svg = (frame.folder / f"{drawing.name}.svg").read_text(encoding="utf-8")
    return {
        "name": drawing.name,
        "short": drawing.name.replace("_", " "),
        "heading": drawing.heading,
        "footer": drawing.footer,
        "svg": inlined(svg, drawing.name, f"{drawing.heading}. {drawing.title}"),
        "about": CAPTIONS[drawing.name],
        "topics": _topics(frame) if drawing.name == TOPICS_UNDER else [],
    }


def _topics(frame: Frame) -> list[dict[str, Any]]:
    section = frame.section("instruction") or {"topics": []}
    return [
        {
            "id": topic["id"],
            "terms": ", ".join(topic["terms"]),
            "language": language_label(max(topic["languages"], key=lambda code: topic["languages"][code], default="")),
            "rows": f"{topic['rows']:,}",
            "clients": f"{topic['clients']:,}",
        }
        for topic in section["topics"]
    ]


def _row(columns: Sequence[PageColumn], client: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": client["id"], "cells": [_cell(column, client) for column in columns]}


def _cell(column: PageColumn, client: Mapping[str, Any]) -> SortableCell:
    value = column.value(client)
    if value is None:
        return SortableCell("", "", column.number)
    text = column.show(value)
    return SortableCell(text, str(value) if column.number else text, column.number)


COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)  # each text again; matplotlib escapes what could end one

METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)

IDS = re.compile(r'(\bid="|href="#|url\(#)')

THEME = {INK: "var(--ink)", PAPER: "var(--paper)", GRID: "var(--figure-grid)"}


def inlined(svg: str, name: str, spoken: str) -> Markup:
    """`svg` as written by our figures; `name` makes its ids its own, `spoken` is what a screen reader says.

    Texts are outlines there, so nothing that a user wrote is left.
    """
    body = METADATA.sub("", COMMENT.sub("", svg[svg.index("<svg") :]))
    head, rest = body[: body.index(">") + 1], body[body.index(">") + 1 :]
    head = re.sub(r' (width|height|version|xmlns)="[^"]*"', "", head)
    head = head.replace("<svg", f'<svg role="img" aria-label="{escape(spoken)}"', 1)
    rest = IDS.sub(rf"\g<1>{name}-", rest)
    for colour, variable in THEME.items():
        rest = rest.replace(colour, variable)
    return Markup(head + rest)
