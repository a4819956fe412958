"""`fedllm-bench submit`: finished runs as a submission to the leaderboard."""

from __future__ import annotations

import argparse
import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.terminal import say

if TYPE_CHECKING:
    from fedllm_bench.leaderboard.submit.assemble import Statement

ROOT = Path("leaderboard/submissions")
EXAMPLES = """examples:
  fedllm-bench submit runs/mini-aya/fedprox --team "Example Lab" --contact lab@example.org \\
      --tuning "mu from {0.01, 0.1, 1} on seeds 100-102, which are not reported"
  fedllm-bench submit runs/aya/mymethod/s0-* runs/aya/mymethod/s1-* runs/aya/mymethod/s2-* --method MyMethod \\
      --team "Example Lab" --url https://example.org/paper --contact https://example.org --tuning "as published"
  fedllm-bench submit RUN RUN RUN --adapters none --adapter-url "https://example.org/s{seed}.safetensors" ...
  fedllm-bench submit RUN --dry-run ...                                   (shows what would be public, writes nothing)

Runs are of one cell and differ in their seed alone; from three seeds on a row is ranked. Nothing is sent anywhere: what
becomes public is written into a folder, and a pull request with it is the submission (docs/submitting.md).
"""
CANARIES = ("base", "constant", "random", "local", "central")
STATED = ("team", "method", "contact", "tuning", "url", "training_data", "track", "adapters", "adapter_url")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "submit",
        help="make a submission to the leaderboard of finished runs",
        description="Pack finished runs as a submission to the leaderboard: records, not numbers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="run folders, or the folder of a method's runs"
    )
    _add_statement(parser)
    parser.add_argument("--track", metavar="ID", default="", help="such as mini-aya/fixed (default: what the runs fit)")
    parser.add_argument("--adapters", choices=("auto", "first", "all", "none"), default="auto",
                        help="which adapters go with it; auto: all if each has at most 1 MiB")  # fmt: skip
    parser.add_argument("--adapter-url", metavar="HTTPS", default="", help="where they are; {seed} stands for the seed")
    parser.add_argument("--canary", choices=CANARIES, help="make a row that no method should fall below, of RUN")
    parser.add_argument("--allow-dirty", action="store_true", help="runs of code that no commit names")
    parser.add_argument(
        "--out", type=Path, default=ROOT, metavar="DIR", help=f"where folders are made (default: {ROOT})"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be public and write nothing")
    parser.set_defaults(run=run)


def _add_statement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--team", required=True, metavar="NAME", help="who submits; public")
    parser.add_argument("--method", metavar="NAME", default="", help="the name of the row (default: the runs' method)")
    parser.add_argument("--url", metavar="HTTPS", default="", help="of a paper or code; public")
    parser.add_argument("--contact", required=True, metavar="MAIL|HTTPS", help="e-mail or https:// address; public")
    parser.add_argument("--tuning", default="", metavar="TEXT", help="how constants were chosen; public")
    parser.add_argument("--training-data", metavar="TEXT", default="only the split", help="what else was trained on")
    parser.add_argument("--date", metavar="DAY", type=_day, default="", help="YYYY-MM-DD (default: today, UTC)")


def _day(text: str) -> str:
    try:
        if not text or (re.fullmatch("20[0-9]{2}-[0-9]{2}-[0-9]{2}", text) and datetime.date.fromisoformat(text)):
            return text
    except ValueError:  # as 2026-02-30
        pass
    raise argparse.ArgumentTypeError(f"{text!a} is not a day from 2000 to 2099; give YYYY-MM-DD, such as 2026-11-30")


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.leaderboard.submit import placing, preview
    from fedllm_bench.leaderboard.submit.submitting import prepare

    made, runs = prepare(args.runs, _statement(args), canary=args.canary, dirty=args.allow_dirty)
    for line in (*preview.lines(made, runs), *preview.flags(made, args.out)):
        say(line)
    if args.dry_run:
        say("Dry run   nothing was written")
        return 0
    target = placing.write(made, args.out)
    say(f"Written   {target}")
    say(f"Check it  fedllm-bench board validate {target}")
    say(f"Next      git add {target} && git commit -m 'Submit {target.name}'; push, and open a pull request")
    return 0


def _statement(args: argparse.Namespace) -> Statement:
    from fedllm_bench.leaderboard.submit.assemble import Statement

    return Statement(**{key: getattr(args, key) for key in STATED}, date=args.date)
