"""The last step of a grid: from the folders of its cells to grid.json, tables and figures in its own folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.csv_text import csv_text
from fedllm_bench.config.run_labels import base_label
from fedllm_bench.report.grid.families import by_family, family_markdown, has_families
from fedllm_bench.report.grid.table import TABLE_WIDTH, markdown, references, terminal_table
from fedllm_bench.results.grid_results import GRID_VERSION, Failure, GridRun, grid_payload
from fedllm_bench.results.grid_rows import grid_rows
from fedllm_bench.results.run_results import ScoreSet
from fedllm_bench.results.schema import read_results
from fedllm_bench.runs.folder import RESULTS
from fedllm_bench.runs.grid import GridCell
from fedllm_bench.runs.score_files import read_scores

GRID = "grid.json"
Reasons = Mapping[tuple[str, int], str]  # by method and seed


def report(cells: Sequence[GridCell], reasons: Reasons, folder: Path) -> dict[str, Any]:
    """grid.json, made anew where a result or a reason to fail has changed since it was written.

    `reasons` says for each cell without results why it has none.
    """
    inputs = _inputs(cells, reasons)
    path = folder / GRID
    before = files.read_made(path)
    if isinstance(before, dict) and before.get("inputs") == inputs and _is_whole(before, folder):
        return before
    payload = _payload(cells, reasons, folder) | {"inputs": inputs}
    for name, text in _tables(payload).items():
        files.write_text(folder / name, text)
    _draw(payload, folder)
    files.write_json(path, payload)
    return payload


def _tables(payload: Mapping[str, Any]) -> dict[str, str]:
    """File -> its text."""
    text = shown_table(payload, TABLE_WIDTH)
    return {"table.txt": text, "table.md": shown_markdown(payload), "table.csv": _csv(payload)}


def _is_whole(payload: Mapping[str, Any], folder: Path) -> bool:
    """Whether all files of a grid are there and say the same; not so where one was changed or deleted by hand."""
    try:
        texts = _tables(payload)
        drawn = [name for name in references(payload) if set(payload["cost"]) - {name}]
    except (LookupError, TypeError, AttributeError, ValueError):  # of a grid.json that is none any more
        return False
    figures = [folder / "figures" / f"differences_to_{name}.{kind}" for name in drawn for kind in ("png", "svg")]
    return all(path.is_file() for path in figures) and all(files.says(folder / n, text) for n, text in texts.items())


def shown_table(payload: Mapping[str, Any], width: int) -> str:
    """The table of the terminal: by family where the methods are rows of a table of methods."""
    return by_family(payload, width) if has_families(payload) else terminal_table(payload, width)


def shown_markdown(payload: Mapping[str, Any]) -> str:
    """Tables in Markdown, the one by family first where there are families."""
    first = f"{family_markdown(payload)}\n" if has_families(payload) else ""
    return first + markdown(payload)


def _csv(payload: Mapping[str, Any]) -> str:
    rows = list(grid_rows(payload))
    return csv_text(list(dict.fromkeys(name for row in rows for name in row)), rows)


def _inputs(cells: Sequence[GridCell], reasons: Reasons) -> str:
    """A hash of all that grid.json is made of, but for this code, which GRID_VERSION stands for."""
    hashes = [reasons[each.key] if each.key in reasons else files.sha256_file(each.folder / RESULTS) for each in cells]
    families = _families(cells)
    return files.sha256_json(
        {"grid_version": GRID_VERSION, "cells": hashes} | ({"families": families} if families else {})
    )


def _families(cells: Sequence[GridCell]) -> dict[str, str]:
    """Label -> family; {} where the methods were named one by one."""
    return {each.method: each.family for each in cells if each.family}


def _payload(cells: Sequence[GridCell], reasons: Reasons, folder: Path) -> dict[str, Any]:
    config, families = cells[0].cell.config, _families(cells)
    about = {
        "dataset": cells[0].cell.split.name,
        "split_hash": cells[0].cell.split.hash,
        **{key: getattr(config, key) for key in ("profile", "track", "variant", "engine")},
        "model": config.model.name,
        "base": base_label(config.model, config.adapter),
        "methods": list(dict.fromkeys(each.method for each in cells)),
        "seeds": list(dict.fromkeys(each.seed for each in cells)),
        **({"families": families} if families else {}),
        "hash": folder.name.removeprefix("grid-"),
    }
    failures = [Failure(method=method, seed=seed, reason=reason) for (method, seed), reason in reasons.items()]
    runs = [_run(each) for each in cells if each.key not in reasons]
    return grid_payload(runs, failures, about=about)


def _run(each: GridCell) -> GridRun:
    results = read_results(each.folder / RESULTS)
    names = [name for name in each.cell.config.evaluation.metrics if name in results.metrics]
    sides = {side: read_scores(each.folder, side, names) for side in ("before", "after")}
    scores = {name: ScoreSet(before=sides["before"][name], after=sides["after"][name]) for name in names}
    return GridRun(method=each.method, seed=each.seed, results=results, scores=scores)


def _draw(payload: Mapping[str, Any], folder: Path) -> None:
    from fedllm_bench.report.grid.figures import forest_plots  # loads matplotlib

    forest_plots(payload, folder / "figures")
