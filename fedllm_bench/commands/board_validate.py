"""`fedllm-bench board validate`: all that is wrong with submissions, and the tier of those that are accepted."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedllm_bench.commands.terminal import say, say_json
from fedllm_bench.common.errors import UserError

EXAMPLES = """\
examples:
  fedllm-bench board validate leaderboard/submissions/2026-11-30_mine
  fedllm-bench board validate mine.zip --json problems.json
  fedllm-bench board validate leaderboard/submissions/* --jobs 4
  fedllm-bench board validate mine --split splits/aya

Exit code: 0 where nothing is refused, 1 where something is, 2 for bad usage and where a check itself failed, which
says nothing of the submission. docs/verifying.md explains every problem.
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
    """1 where a submission is refused; 2 where an error of our own kept one from being checked."""
    from fedllm_bench.common.progress import track
    from fedllm_bench.leaderboard.checks import validate

    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    if args.board is not None and not args.board.is_dir():
        raise UserError(f"--board {args.board}: no such folder; give the folder of all submissions")
    check_splits(args.splits)
    with _Workers(args.jobs) as workers:
        known = [found for found in workers.map(_known, _board(args)) if found is not None]
        context = validate.context_of(known=known, splits=args.splits)
        found = workers.map(partial(_validated, context), args.paths)
        reports = list(track(found, "validate", len(args.paths)))
    for report in reports:
        _say(report)
    say_json(args.json, {"reports": [report.to_dict() for report in reports]})
    if failed := [report for report in reports if report.error]:
        others = f" ({len(failed)} of {len(reports)} submissions are unchecked)" if len(reports) > 1 else ""
        raise UserError(f"{failed[0].error}{others}")
    return 0 if all(report.is_accepted for report in reports) else 1


def check_splits(folders: Sequence[Path]) -> None:
    """Raise a :class:`UserError` for a `--split` that is none."""
    for folder in folders:
        if not (folder / "manifest.json").is_file():
            raise UserError(f"--split {folder}: no split is there; give a folder with manifest.json")


def _board(args: argparse.Namespace) -> list[Path]:
    from fedllm_bench.leaderboard.submission import layout

    return list(layout.submissions_in(args.board or BOARD))


def _known(folder: Path) -> Any:
    from fedllm_bench.leaderboard.checks import validate

    return validate.known(folder)


def _validated(context: Any, path: Path) -> Any:
    from fedllm_bench.leaderboard.checks import validate

    return validate.validate(path, context)


class _Workers(AbstractContextManager["_Workers"]):
    """`map` in this process, or in `jobs` others; in the order of what is given."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if jobs > 1 else None

    def map(self, function: Callable[[Any], Any], given: Sequence[Any]) -> Iterator[Any]:
        if self.pool is None:
            return map(function, given)
        return self.pool.map(function, given, chunksize=max(1, len(given) // (4 * self.jobs)))

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _say(report: Any) -> None:
    say(f"{report.path}")
    for problem in _sorted(report.problems):
        say(f"  {problem.line}")
    say(f"  tier: {report.tier} ({report.seconds:.1f} s)")


def _sorted(problems: Sequence[Any]) -> list[Any]:
    """What is refused first."""
    return sorted(problems, key=lambda problem: problem.level != "refused")
