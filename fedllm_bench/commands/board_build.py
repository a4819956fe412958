"""`fedllm-bench board build`: the site of the leaderboard from its submissions."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fedllm_bench.commands.terminal import say
from fedllm_bench.common.errors import UserError

SUBMISSIONS, OUT = Path("leaderboard/submissions"), Path("build/board")
EXAMPLES = """\
examples:
  fedllm-bench board build
  fedllm-bench board build --submissions leaderboard/submissions --out build/board --jobs 4
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "build",
        help="make the site: boards, a page for each submission, CSV and JSON",
        description="Make the site from submissions only. It opens from disk and from any static host.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help=f"default: {SUBMISSIONS}")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"replaced as a whole; default: {OUT}")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; default: one for each core")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """2 where a submission was left out: the site is there, without it."""
    from fedllm_bench.leaderboard.site import build

    jobs = (os.cpu_count() or 1) if args.jobs is None else args.jobs
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: give 1 or more")
    built = build.build(args.submissions, args.out, jobs=jobs)
    for slug, why in built.left_out.items():
        say(f"left out  {slug}: {why}")
    for line in built.alarms:
        say(f"alarm     {line}")
    say(f"boards    {built.num_boards}, with {built.num_rows} rows of {built.num_submissions} submissions")
    say(f"site      {built.index}")
    return 2 if built.left_out else 0
