"""The page over the grids of several data sets: of each method and data set the difference to FedAvg.

Pure functions but for :func:`write`; docs/grid.md explains the keys of summary.json.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.text import MISSING, change, counted, number, signed
from fedllm_bench.report.grid.files import Reasons
from fedllm_bench.report.grid.table import from_to_seeds, mark, markdown
from fedllm_bench.report.grid.table import title as grid_title
from fedllm_bench.report.tables import aligned
from fedllm_bench.results.grid_results import BASE
from fedllm_bench.runs.grid import Request

SUMMARY_VERSION = 1
REFERENCE = "fedavg"
LONG_NAME = 14  # a longer name of a data set is broken in two, so that five fit beside each other
Summary = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class GridPart:
    """One data set of the grid. `reasons` says of each cell without results why it has none."""

    request: Request
    name: str  # as shown: "mini-aya"; that of the preset where the split could not be opened
    reasons: Reasons
    payload: dict[str, Any] | None = None
    folder: Path | None = None
    opened: bool = True


def summary(parts: Sequence[GridPart], out: Path) -> dict[str, Any]:
    """The whole of summary.json: one entry for each data set, and every cell without results."""
    request = parts[0].request
    return {
        "summary_version": SUMMARY_VERSION,
        "reference": REFERENCE,
        "methods": list(request.methods),
        "seeds": list(request.seeds),
        "hash": _hash([part.request for part in parts]),
        "datasets": [_dataset(part, out) for part in parts],
        "failed": [_failed(part, method, seed, why) for part in parts for (method, seed), why in part.reasons.items()],
    }


def _hash(requests: Sequence[Request]) -> str:
    """The same data sets, methods, seeds and settings have the same page, whatever has failed so far."""
    first = requests[0]
    names = sorted(request.dataset for request in requests)
    asked = [names, first.methods, first.seeds, first.profile, first.options, first.overrides]
    rows = [[vars(row) for row in first.rows]] if first.rows else []
    return files.sha256_json([*asked, *rows])[:10]


def _dataset(part: GridPart, out: Path) -> dict[str, Any]:
    payload = part.payload
    metric = next(iter(payload["metrics"])) if payload else None
    entry = payload["metrics"][metric] if payload else {}
    return {
        "dataset": part.name,
        "asked": part.request.dataset,
        "grid": str(part.folder.relative_to(out)) if payload and part.folder else None,
        "num_clients": payload["data"]["num_clients"] if payload else None,
        "metric": metric,
        "unit": entry.get("unit"),
        "higher_is_better": entry.get("higher_is_better"),
        "methods": {name: _row(row) for name, row in entry.get("methods", {}).items()},
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The mean, and the difference to the reference as in grid.json; null for the reference, or without one."""
    return {"mean": row["mean"], "difference": row["differences"].get(REFERENCE)}


def _failed(part: GridPart, method: str, seed: int, why: str) -> dict[str, Any]:
    command = shlex.join(["fedllm-bench", *part.request.words(method, seed)])
    return {"dataset": part.name, "method": method, "seed": seed, "reason": why, "command": command}


def write(found: Summary, payloads: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """OUT/grids-<hash>/ with summary.json, summary.txt, and the page with every table; gives the folder."""
    folder = files.make_folder(out / f"grids-{found['hash']}")
    files.write_text(folder / "summary.txt", "\n".join([terminal(found), *failed_lines(found)]) + "\n")
    files.write_text(folder / "summary.md", page(found, payloads))
    files.write_json(folder / "summary.json", dict(found))
    return folder


# --- for the terminal


def terminal(found: Summary) -> str:
    """Methods below each other, data sets side by side, and what the marks mean."""
    datasets = found["datasets"]
    rows = [
        ["", *(_broken(each["dataset"])[0] for each in datasets)],
        ["", *(_broken(each["dataset"])[1] for each in datasets)],
        ["", *(_metric(each) for each in datasets)],
        *([name, *(_cell(each, name) for each in datasets)] for name in _names(found)),
    ]
    rows = [row for row in rows if any(row)]
    table = aligned(rows, to_left=True, heads=len(rows) - len(_names(found)))
    return "\n".join([_title(found), "", *table, "", *_notes()])


def _names(found: Summary) -> list[str]:
    return [BASE, *found["methods"]]


def _title(found: Summary) -> str:
    count = counted(len(found["datasets"]), "data set")
    return f"All methods minus {REFERENCE} on {count}, {from_to_seeds(found['seeds'])}"


def _broken(name: str) -> tuple[str, str]:
    """ "mini-wildchat_multi" in two lines."""
    head, mark, tail = name.rpartition("_")
    return (head + mark, tail) if len(name) > LONG_NAME and mark else (name, "")


def _metric(each: Summary) -> str:
    if each["metric"] is None:
        return ""
    return f"{each['metric']} {'↑' if each['higher_is_better'] else '↓'}"


def _cell(each: Summary, name: str, *, interval: bool = False) -> str:
    """ "-0.037 ●"; the mean of the reference in brackets; "failed" where a method has no result at all."""
    row = each["methods"].get(name)
    if row is None:
        return MISSING if name == BASE else "failed"
    if name == REFERENCE:
        return f"({number(row['mean'])})"
    found = row["difference"]
    if found is None or found["mean"] is None:
        return MISSING
    shown = change(found) if interval else signed(found["mean"])
    return f"{shown} {mark(found)}".rstrip()


def _notes() -> list[str]:
    return [
        f"({REFERENCE}): its mean; the rest are paired differences to it. ↓ lower is better, ↑ higher is better",
        "● clear, ○ not distinguishable, as in the table of each data set",
        "after ○ the smallest true difference that would have shown in four of five tries (80% power)",
    ]


def failed_lines(found: Summary) -> list[str]:
    """Each cell without results: why, and the command that runs it alone. Empty where there is none."""
    if not found["failed"]:
        return []
    lines = [f"{counted(len(found['failed']), 'cell')} failed; the same command tries them again"]
    for each in found["failed"]:
        lines += [
            f"  {each['dataset']} {each['method']} seed {each['seed']}: {each['reason']}",
            f"    {each['command']}",
        ]
    return [*lines, ""]


# --- Markdown


def page(found: Summary, payloads: Sequence[Mapping[str, Any]]) -> str:
    """The table over all data sets, what failed, and the tables of each grid."""
    datasets = found["datasets"]
    header = ["", *(f"{each['dataset']}<br>{_metric(each)}".removesuffix("<br>") for each in datasets)]
    rows = [[name, *(_cell(each, name, interval=True) for each in datasets)] for name in _names(found)]
    table = [header, ["---", *("---:" for _ in datasets)], *rows]
    parts = [
        f"# {_title(found)}\n",
        "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n",
        "\n".join(f"- {note}" for note in _notes()) + "\n",
        *_failed_page(found),
        *(f"## {payload['grid']['dataset']}\n\n{_body(payload)}" for payload in payloads),
    ]
    return "\n".join(parts)


def _failed_page(found: Summary) -> list[str]:
    if not found["failed"]:
        return []
    rows = [f"- {each['dataset']} {each['method']} seed {each['seed']}: {each['reason']}  \n  `{each['command']}`"
            for each in found["failed"]]  # fmt: skip
    return ["## Failed\n", "\n".join(rows) + "\n"]


def _body(payload: Mapping[str, Any]) -> str:
    """The Markdown of one grid, its title in italics below the heading of the page."""
    text = markdown(payload)
    title = grid_title(payload)
    return text.replace(title, f"*{title}*", 1)
