"""results.json as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedllm_bench.common.text import MISSING, change, number, signed, wrapped
from fedllm_bench.report.client_table import client_rows
from fedllm_bench.report.labels import what_ran
from fedllm_bench.report.legend import Entry, Payload, after_name, legend
from fedllm_bench.results.schema import QUANTILES

Column = tuple[str, Callable[[str, Entry], str]]
CHANGE = {"difference": "after - base [95% CI]", "difference_to_local": "after - local [95% CI]"}


def terminal_table(payload: Payload, width: int = 100) -> str:
    """A plain-text table with its legend; one wider than `width` columns is split in two."""
    metrics: Mapping[str, Entry] = payload["metrics"]
    local = any(entry["local"] for entry in metrics.values())
    after = after_name(payload)
    columns = _columns(after, local)
    table = _rows_of(columns, metrics)
    if len(table[0]) > width and local:
        with_local = {name: entry for name, entry in metrics.items() if entry["local"]}
        table = [
            *_rows_of(_columns(after, False), metrics),
            "",
            *_rows_of([columns[0], *_local_columns()], with_local),
        ]
    table += _on_emulator(payload)
    if payload["run"]["personal"]:
        table += _over_clients(payload)
    if rows := client_rows(payload):
        table += ["", *aligned(rows)]
    return "\n".join([*wrapped(_title(payload), width), "", *table, "", *legend(payload, width)])


def _on_emulator(payload: Payload) -> list[str]:
    """The same metrics of what was trained on the emulator, under offsite tuning; the table above is of the plug-in."""
    offsite = payload.get("offsite")
    if not offsite:
        return []
    columns = [("on the emulator", _name), *_columns("after", False)[1:]]
    columns[1] = ("zero-shot", columns[1][1])
    columns[3] = ("after - zero-shot [95% CI]", columns[3][1])
    return ["", *_rows_of(columns, offsite["metrics"])]


def _columns(after: str, local: bool) -> list[Column]:
    value_local, change_local = _local_columns()
    return [
        ("metric", _name),
        ("base", lambda _, entry: _marked(entry["before"])),
        (after, lambda _, entry: _marked(entry["after"])),
        *([value_local] if local else []),
        (CHANGE["difference"], lambda _, entry: change(entry["difference"])),
        *([change_local] if local else []),
    ]


def _local_columns() -> tuple[Column, Column]:
    return (
        ("local", lambda _, entry: _marked(entry["local"])),
        (CHANGE["difference_to_local"], lambda _, entry: change(entry["difference_to_local"])),
    )


def _name(name: str, entry: Entry) -> str:
    return f"{name} {'↑' if entry['higher_is_better'] else '↓'}"


def _marked(summary: Mapping[str, Any] | None) -> str:
    """A space keeps the digits of unmarked numbers in line with those of marked ones."""
    if summary is None:
        return f"{MISSING} "
    return number(summary["mean"]) + ("*" if summary["n_unscored"] else " ")


def _rows_of(columns: Sequence[Column], metrics: Mapping[str, Entry]) -> list[str]:
    rows = [[cell(name, entry) for _, cell in columns] for name, entry in metrics.items()]
    return aligned([[title for title, _ in columns], *rows])


def _over_clients(payload: Payload) -> list[str]:
    """The spread over clients of each metric itself, not of its views; empty where nothing is scored."""
    rows = []
    for name in payload["clients"]:
        entry = payload["metrics"][name]
        after, difference = entry["distribution"]["after"], entry["distribution"]["difference"]
        if after["n"]:
            rows.append([_name(name, entry), str(after["n"]), *(number(after[key]) for key in QUANTILES)])
            changes = (signed(difference[key]) for key in QUANTILES)
            rows.append(["  after - base", str(difference["n"]), *changes])
    return ["", *aligned([["over clients", "n", *QUANTILES], *rows])] if rows else []


def aligned(rows: Sequence[Sequence[str]], *, to_left: bool = False, heads: int = 1) -> list[str]:
    """A line for each row, and a rule under the first `heads` rows.

    The first column is aligned on the left, the others on the right, or all of them `to_left`.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [_left(row, widths) if to_left else _right(row, widths) for row in rows]
    return [*lines[:heads], "-" * max(map(len, lines)), *lines[heads:]]


def _left(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _right(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([row[0].ljust(widths[0]), *cells])


def _title(payload: Payload) -> str:
    run = payload["run"]
    ran = what_ran(run, payload["data"]["num_clients"])
    return f"{run['dataset']} · {run['method']} · seed {run['seed']} · {ran}"
