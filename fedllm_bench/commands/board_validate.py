"""`fedllm-bench board validate`: all that is wrong with submissions, and the tier of those that are accepted."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedllm_bench.commands.terminal import say, say_json
from fedllm_bench.errors import UserError
from fedllm_bench.progress import track

EXAMPLES = """\
examples:
  fedllm-bench board validate leaderboard/submissions/2026-01-31_mine
  fedllm-bench board validate mine.zip --json problems.json
  fedllm-bench board validate leaderboard/submissions/* --jobs 4
  fedllm-bench board validate mine --split splits/aya

Exit code: 0 where nothing is refused, 1 where something is, 2 for bad usage. docs/verifying.md explains every problem.
"""
BOARD = Path("leaderboard/submissions")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "validate",
        help="find all that is wrong with submissions, without running anything of them",
        description="Find all that is wrong with submissions, without running anything of them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="the folder or zip of a submission")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports as JSON too")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="submissions at once (default 1)")
    parser.add_argument("--board", type=Path, metavar="DIR", help=f"submissions to compare with (default: {BOARD})")
    parser.add_argument(
        "--split", dest="splits", type=Path, action="append", default=[], metavar="DIR", help="a split of real data"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """1 where a submission is refused."""
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    if args.board is not None and not args.board.is_dir():
        raise UserError(f"--board {args.board}: no such folder; give the folder of all submissions")
    reports = list(track(_reports(args), "validate", len(args.paths)))
    for report in reports:
        _say(report)
    say_json(args.json, {"reports": [report.to_dict() for report in reports]})
    return 0 if all(report.is_accepted for report in reports) else 1


def _reports(args: argparse.Namespace) -> Iterator[Any]:
    """In the order of the paths, from several processes where asked."""
    module = importlib.import_module("fedllm_bench.leaderboard.validate")
    context = module.context_of(board=args.board or BOARD, splits=args.splits)
    if args.jobs == 1 or len(args.paths) == 1:
        yield from (module.validate(path, context) for path in args.paths)
        return
    with ProcessPoolExecutor(min(args.jobs, len(args.paths)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_validated, args.paths, [context] * len(args.paths))


def _validated(path: Path, context: Any) -> Any:
    """In a process of its own."""
    return importlib.import_module("fedllm_bench.leaderboard.validate").validate(path, context)


def _say(report: Any) -> None:
    say(f"{report.path}")
    for problem in _sorted(report.problems):
        say(f"  {problem.line}")
    say(f"  tier: {report.tier} ({report.seconds:.1f} s)")


def _sorted(problems: Sequence[Any]) -> list[Any]:
    """What is refused first."""
    return sorted(problems, key=lambda problem: problem.level != "refused")
