"""All methods of a table in one view, by family: the first metric with its interval, the others, and the bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from fedllm_bench.common.text import MISSING, change, number, size
from fedllm_bench.report.grid.table import half_width, mark, name_of, rows_of, shown_views, value, with_legend
from fedllm_bench.results.grid_results import BASE

Payload = Mapping[str, Any]
REFERENCE = "fedavg"


def has_families(payload: Payload) -> bool:
    """Whether the methods of the grid are rows of a table; grid.json of before has none."""
    return bool(payload["grid"].get("families"))


def family_table(payload: Payload) -> list[str]:
    """A line for each method under the name of its family."""
    lines = [_header(payload), *(cells for _, group in _groups(payload) for cells in group)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def shown(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    head = shown(lines[0])
    found = [head, "-" * max(len(shown(line)) for line in lines)]
    for family, group in _groups(payload):
        found += [family] if family else []
        found += [shown(cells) for cells in group]
    return found


def by_family(payload: Payload, width: int) -> str:
    """The table under its title, with its legend."""
    notes = [
        f"by family; after the mean of every metric but the first the mark of its own difference to {REFERENCE}",
        "up, down: bytes that clients send and get in a whole run, mean over seeds",
    ]
    return with_legend(payload, family_table(payload), notes, width)


def family_markdown(payload: Payload) -> str:
    """The same as a table of Markdown, with the family in the first column."""
    header = ["family", *(cell.strip() for cell in _header(payload))]
    rows = [
        [family, *(cell.strip().replace("*", r"\*") for cell in cells)]
        for family, group in _groups(payload)
        for cells in group
    ]
    lines = [header, ["---", "---", *("---:" for _ in header[2:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _groups(payload: Payload) -> Iterator[tuple[str, list[list[str]]]]:
    """(family, rows); the base model comes first and has none."""
    families = payload["grid"]["families"]
    for family, names in groupby(rows_of(payload), key=lambda name: families.get(name, "")):
        yield family, [_cells(payload, name, indent="  " if family else "") for name in names]


def _metrics(payload: Payload) -> list[str]:
    return shown_views(payload)


def _has_reference(payload: Payload) -> bool:
    return payload["references"].get(REFERENCE, "") is None


def _header(payload: Payload) -> list[str]:
    first, *others = _metrics(payload)
    entries = payload["metrics"]
    minus = [f"minus {REFERENCE} [clients] ±seeds"] if _has_reference(payload) else []
    names = [name_of(first, entries[first]), *minus, *(name_of(name, entries[name]) for name in others)]
    return ["", *names, "up", "down"]


def _cells(payload: Payload, name: str, *, indent: str) -> list[str]:
    first, *others = _metrics(payload)
    cost = payload["cost"].get(name)
    sent = [MISSING, MISSING] if cost is None else [size(cost["bytes_up"]), size(cost["bytes_down"])]
    row = payload["metrics"][first]["methods"].get(name)
    minus = [_difference(row)] if _has_reference(payload) else []
    start = "failed" if row is None else value(row, spread=name != BASE)
    return [f"{indent}{name}", start, *minus, *(_other(payload, each, name) for each in others), *sent]


def _difference(row: Mapping[str, Any] | None) -> str:
    found = (row or {"differences": {}})["differences"].get(REFERENCE)
    if found is None:
        return MISSING
    return f"{change(found):23} {half_width(found['seeds']):6} {mark(found)}".rstrip()


def _other(payload: Payload, metric: str, name: str) -> str:
    """The mean of another metric, with the mark of its own difference to FedAvg."""
    row = payload["metrics"][metric]["methods"].get(name)
    if row is None:
        return MISSING
    found = row["differences"].get(REFERENCE)
    sign = mark(found).partition(" ")[0] if found else ""
    return f"{number(row['mean'])}{'*' if row['n_unscored'] else ''} {sign}".rstrip()
