"""`fedllm-bench judge-check`: how far a judge can be trusted, measured against MT-Bench's human experts."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.errors import UserError

if TYPE_CHECKING:
    from fedllm_bench.evaluation.pair_judging import Judge

log = logging.getLogger(__name__)
EXAMPLES = """examples:
  fedllm-bench judge-check
  fedllm-bench judge-check --judge gpt-4o --limit 200 --repeats 2 --out checks
  fedllm-bench judge-check --judge gpt-4o --out checks --offline --json check.json

Without --judge nothing is asked: the published votes of experts and of GPT-4 are compared with each other.
With it, the judge is asked about pairs of answers that experts voted on, each in both orders. Replies are kept
below --out, so the same command goes on where it stopped; --offline only measures what is kept.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "judge-check",
        help="measure a judge against MT-Bench's human experts",
        description="Agreement with human experts, position and length bias, self-consistency and cost of a judge.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--judge", metavar="NAME", help="the judge to ask (default: none, only published votes)")
    parser.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="ask about N of the 1,633 pairs of answers, spread over the questions (default: all)",
    )
    parser.add_argument("--repeats", type=_count, default=1, metavar="N", help="ask N times (default: 1)")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="requests at once (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("judge-checks"), metavar="DIR", help="where replies are kept (judge-checks)"
    )
    parser.add_argument("--offline", action="store_true", help="ask nothing; measure the replies that are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench import files
    from fedllm_bench.report.judge_check import judge_check_text

    if args.judge is None and args.offline:
        raise UserError("--offline measures the kept replies of a judge; name it with --judge")
    payload = _published() if args.judge is None else _measured(args)
    sys.stdout.write(judge_check_text(payload) + "\n")
    if args.json is not None:
        files.make_folder(args.json.parent)
        files.write_json(args.json, payload)
        sys.stdout.write(f"JSON      {args.json}\n")
    return 0


def _published() -> dict[str, Any]:
    from fedllm_bench.evaluation.judge_check import published_check
    from fedllm_bench.evaluation.votes import expert_votes, gpt4_votes

    return published_check(expert_votes(), gpt4_votes())


def _measured(args: argparse.Namespace) -> dict[str, Any]:
    from fedllm_bench.evaluation.judge_check import check_of
    from fedllm_bench.evaluation.pair_judging import Asking, ask_about, pair_files, sample
    from fedllm_bench.evaluation.pair_prompts import mt_bench_material
    from fedllm_bench.evaluation.votes import expert_votes

    name = args.judge
    material, matches = mt_bench_material(), sample((vote.match for vote in expert_votes()), args.limit)
    if not args.offline:
        judge = open_judge(name)
        name = judge.name
        asking = Asking(folder=args.out, repeats=args.repeats)
        files_of = pair_files(name, matches, material, asking)
        log.info("%d pairs of answers: %d requests", len(matches), sum(len(file.todo()) for file in files_of))
        ask_about(judge, files_of, material, args.workers)
    return check_of(args.out, name, matches, material)


def open_judge(name: str) -> Judge:
    """The judge called `name`. Raises a :class:`UserError` for an unknown one."""
    raise UserError(f"--judge {name}: no judges are installed; --offline measures kept replies")
