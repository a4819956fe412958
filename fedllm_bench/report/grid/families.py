"""All methods of a table in one view, by family: the first metric with its interval, the others, and the bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from fedllm_bench.common.text import MISSING, change, flop, number, size
from fedllm_bench.report.grid.table import FLOPS, half_width, mark, name_of, rows_of, shown_views, value, with_legend
from fedllm_bench.results.grid_results import BASE

Payload = Mapping[str, Any]
REFERENCE = "fedavg"
WHOLE = 2  # of detail: 1 is without the smallest difference that would have shown, 0 also without ± over seeds


def has_families(payload: Payload) -> bool:
    """Whether the methods of the grid are rows of a table; grid.json of before has none."""
    return bool(payload["grid"].get("families"))


def family_table(payload: Payload, detail: int = WHOLE) -> list[str]:
    """A line for each method under the name of its family. Less `detail` leaves out what lies over seeds."""
    lines = [_header(payload, detail), *(cells for _, group in _groups(payload, detail) for cells in group)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def shown(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    head = shown(lines[0])
    found = [head, "-" * max(len(shown(line)) for line in lines)]
    for family, group in _groups(payload, detail):
        found += [family] if family else []
        found += [shown(cells) for cells in group]
    return found


def by_family(payload: Payload, width: int) -> str:
    """The table under its title, with its legend; with as much detail as `width` columns hold."""
    fits = (level for level in range(WHOLE, 0, -1) if max(map(len, family_table(payload, level))) <= width)
    detail = next(fits, 0)
    left_out = {1: "the number after ○", 0: "± and the number after ○"}
    notes = [
        *([f"too narrow here for {left_out[detail]}, which table.md has"] if detail in left_out else []),
        f"by family; after the mean of every metric but the first the mark of its own difference to {REFERENCE}",
        "up, down: bytes that clients send and get in a whole run, mean over seeds",
    ]
    return with_legend(_of_reference(payload), family_table(payload, detail), notes, width)


def _of_reference(payload: Payload) -> Payload:
    """The payload with the differences that the table shows, so that its legend speaks of no others."""
    metrics = {
        view: {**payload["metrics"][view], "methods": {
            name: {**row, "differences": {k: v for k, v in row["differences"].items() if k == REFERENCE}}
            for name, row in payload["metrics"][view]["methods"].items()
        }}
        for view in _metrics(payload)
    }  # fmt: skip
    references = {name: why for name, why in payload["references"].items() if name == REFERENCE}
    return {**payload, "metrics": metrics, "references": references}


def family_markdown(payload: Payload) -> str:
    """The same as a table of Markdown, with the family in the first column."""
    header = ["family", *(cell.strip() for cell in _header(payload, WHOLE))]
    rows = [
        [family.replace("|", r"\|"), *(" ".join(cell.split()).replace("*", r"\*") for cell in cells)]
        for family, group in _groups(payload, WHOLE)
        for cells in group
    ]
    lines = [header, ["---", "---", *("---:" for _ in header[2:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _groups(payload: Payload, detail: int) -> Iterator[tuple[str, list[list[str]]]]:
    """(family, rows); the base model comes first and has none."""
    families = payload["grid"]["families"]
    for family, names in groupby(rows_of(payload), key=lambda name: families.get(name, "")):
        yield family, [_cells(payload, name, detail, indent="  " if family else "") for name in names]


def _metrics(payload: Payload) -> list[str]:
    return shown_views(payload, ())


def _has_reference(payload: Payload) -> bool:
    return payload["references"].get(REFERENCE, "") is None


def _header(payload: Payload, detail: int) -> list[str]:
    first, *others = _metrics(payload)
    entries = payload["metrics"]
    minus = [f"minus {REFERENCE} [clients]{' ±seeds' if detail else ''}"] if _has_reference(payload) else []
    names = [name_of(first, entries[first]), *minus, *(name_of(name, entries[name]) for name in others)]
    return ["", *names, "up", "down", *(["FLOP"] if _has_flops(payload) else [])]


def _has_flops(payload: Payload) -> bool:
    """Whether runs tell them; grid.json of before does not."""
    return any(cost.get(FLOPS) is not None for cost in payload["cost"].values())


def _cells(payload: Payload, name: str, detail: int, *, indent: str) -> list[str]:
    first, *others = _metrics(payload)
    cost = payload["cost"].get(name)
    sent = [MISSING, MISSING] if cost is None else [size(cost["bytes_up"]), size(cost["bytes_down"])]
    sent += [flop((cost or {}).get(FLOPS))] if _has_flops(payload) else []
    row = payload["metrics"][first]["methods"].get(name)
    minus = [_difference(row, detail)] if _has_reference(payload) else []
    start = "failed" if row is None else value(row, spread=name != BASE)
    return [f"{indent}{name}", start, *minus, *(_other(payload, each, name) for each in others), *sent]


def _difference(row: Mapping[str, Any] | None, detail: int) -> str:
    found = (row or {"differences": {}})["differences"].get(REFERENCE)
    if found is None:
        return MISSING
    over_seeds = f" {half_width(found['seeds']):6}" if detail else ""
    sign = mark(found) if detail == WHOLE else mark(found).partition(" ")[0]
    return f"{change(found):23}{over_seeds} {sign}".rstrip()


def _other(payload: Payload, metric: str, name: str) -> str:
    """The mean of another metric, with the mark of its own difference to FedAvg."""
    row = payload["metrics"][metric]["methods"].get(name)
    if row is None:
        return MISSING
    found = row["differences"].get(REFERENCE)
    sign = mark(found).partition(" ")[0] if found else ""
    return f"{number(row['mean'])}{'*' if row['n_unscored'] else ''} {sign}".rstrip()
