"""The data card as one HTML page: no scripts, nothing fetched, every text escaped."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from html import escape

from fedllm_bench.data.card import (
    PART_HEAD,
    CardContents,
    class_counts,
    client_sizes_line,
    length_rows,
    part_rows,
    who_clients_are,
)
from fedllm_bench.data.funnel_words import in_words
from fedllm_bench.data.manifest_fields import SplitInfo

WIDTH, ROW, LABEL, COUNT = 640, 24, 130, 60  # pixels of the histogram, one of its bars, and the text at both ends
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --bar: #3b6fb6; --line: #8886; --warn: #b45f06 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.warning { border-left: .3rem solid var(--warn); padding-left: .7rem }
svg { max-width: 100%; height: auto } svg rect { fill: var(--bar) } svg text { fill: currentColor; font-size: 13px }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere } dd, li { overflow-wrap: anywhere }
dt { font-weight: 600 } dd { margin: 0 0 .4rem }
"""


def html_card(contents: CardContents) -> str:
    """What :func:`fedllm_bench.data.card.data_card` says, for a browser."""
    info, languages = contents.info, contents.languages
    ordered = sorted(languages, key=lambda language: (-languages[language], language))
    spreads = _table(["", "mean", "population std", "median", "largest"], length_rows(contents.lengths))
    sections = [
        ("Parts", _table(PART_HEAD, part_rows(info))),
        ("Warnings", "".join(f'<p class="warning">{escape(line)}</p>' for line in contents.warnings)),
        ("Compared with the published split", _table(["", "published", "here"], contents.compared)),
        ("Funnel", _funnel(info)),
        ("Notes", _list(info.notes)),
        ("Clients by rows", histogram_svg(contents.client_sizes)),
        ("Lengths", spreads and f"{spreads}<p>{escape(contents.about_tokens)}</p>"),
        ("Languages", _table(["language", "rows"], [(name, languages[name]) for name in ordered])),
        ("Recipe", f"<pre>{escape(json.dumps(info.recipe, indent=2, ensure_ascii=False, sort_keys=True))}</pre>"),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>\n" for title, content in sections if content)
    return _page(info.name, _head(contents) + body)


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: data card</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{body}</main></body></html>\n"
    )


def _head(contents: CardContents) -> str:
    info = contents.info
    made = f"A client split of {info.dataset} (task {info.task}, version {info.version}) by FedLLM-Bench."
    facts = {
        "Upstream": f"{info.upstream.id}, revision {info.upstream.revision or 'not stated'}",
        "Licence": info.licence,
        "Rows": ", ".join(f"{part} {rows}" for part, rows in contents.rows_by_part.items()),
        "Clients": client_sizes_line(contents.client_sizes),
    }
    facts |= {"Control tokens": contents.marks.line} if contents.marks.line else {}
    listed = "".join(f"<dt>{name}</dt><dd>{escape(_shown(value))}</dd>" for name, value in facts.items())
    return f"<p>{escape(made)} {escape(who_clients_are(info))}</p>\n<dl>{listed}</dl>\n"


def _funnel(info: SplitInfo) -> str:
    rows = [(s.step, s.rows_removed, s.rows_left, s.clients_left, in_words(s.reason)) for s in info.funnel]
    return _table(["step", "rows removed", "rows left", "clients left", "reason"], rows)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, "" without rows; a column whose first cell is a number is set to the right."""
    if not rows:
        return ""
    classes = [' class="number"' if _is_number(cell) else "" for cell in rows[0]]
    top = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(head, classes, strict=True))
    lines = (
        "".join(f"<td{kind}>{escape(_shown(cell))}</td>" for cell, kind in zip(row, classes, strict=True))
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or str(cell).replace(".", "", 1).isdigit()


def _shown(cell: object) -> str:
    text = str(cell)
    return f"{int(text):,}" if text.isascii() and text.isdigit() else text.replace(" +- ", " ± ")


def histogram_svg(sizes: Sequence[int]) -> str:
    """Clients by rows in classes that double, as drawn bars with their counts: as tall for 5 clients as for 5,000."""
    counts = class_counts(sizes)
    if not counts:
        return ""
    most, height = max(counts.values()), ROW * len(counts)
    bars = "".join(
        _bar(place, f"{2**c} to {2 ** (c + 1) - 1}", count, count / most)
        for place, (c, count) in enumerate(counts.items())
    )
    title = f"{sum(counts.values())} clients by their number of rows, median {statistics.median(sizes):g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{title}"><title>{title}</title>{bars}</svg><p>Rows of a client, and how many clients have so '
        "many.</p>"
    )


def _bar(place: int, label: str, count: int, share: float) -> str:
    top, middle = place * ROW + 3, place * ROW + ROW // 2 + 5
    width = (WIDTH - LABEL - COUNT) * share
    return (
        f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end">{label}</text>'
        f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="{ROW - 6}"/>'
        f'<text x="{LABEL + width + 6:.1f}" y="{middle}">{count}</text>'
    )
