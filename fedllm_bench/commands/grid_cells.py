"""What `grid` says and takes: the request of its options, its exit code, and the table at the end."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.terminal import BAD_INPUT, say
from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:
    from fedllm_bench.runs.grid import Request

FAILED = 1


def request_of(args: argparse.Namespace, profile: str) -> Request:
    """What the options ask for; a :class:`UserError` for methods, a table or seeds that are none."""
    from fedllm_bench.config.method_tables import read_table
    from fedllm_bench.runs.grid import Request, parse_methods, parse_seeds

    if args.table is not None and args.methods is not None:
        raise UserError(f"--methods {args.methods}: --table {args.table} has the methods; give one of the two")
    rows = () if args.table is None else read_table(args.table)
    same = {key: getattr(args, key) for key in ("dataset", "engine", "variant", "split", "model", "metrics", "out")}
    return Request(
        methods=tuple(row.label for row in rows) or parse_methods("all" if args.methods is None else args.methods),
        rows=rows,
        seeds=parse_seeds(args.seeds),
        profile=profile,
        overrides=tuple(args.overrides),
        plugins=tuple(args.plugins),
        **same,
    )


def exit_code(failed: Sequence[int]) -> int:
    """0 without failures, 2 where all of them are bad input, else 1."""
    if not failed:
        return 0
    return BAD_INPUT if set(failed) == {BAD_INPUT} else FAILED


def show(payload: Mapping[str, Any] | None, folder: Path) -> None:
    """Print the table of a grid and where it lies; nothing where every cell failed."""
    from fedllm_bench.report.grid.files import GRID, shown_table
    from fedllm_bench.report.grid.table import TABLE_WIDTH

    if payload is None:
        return
    say("")
    say(shown_table(payload, shutil.get_terminal_size((TABLE_WIDTH, 24)).columns))
    say(f"Numbers   {folder / GRID}")
    say(f"Tables    {folder / 'table.md'}, {folder / 'table.txt'}, {folder / 'table.csv'}")
    say(f"Figures   {folder / 'figures'}")
