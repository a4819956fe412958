"""`fedllm-bench judge-check`: how far a judge can be trusted, measured against MT-Bench's human experts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fedllm_bench.commands import judge
from fedllm_bench.commands.bench import positive
from fedllm_bench.commands.terminal import say, say_json
from fedllm_bench.common.errors import UserError

EXAMPLES = """examples:
  fedllm-bench judge-check                                                what is published; nothing is asked
  fedllm-bench judge-check --judge gpt-6-luna --limit 200 --dry-run       what it would cost
  fedllm-bench judge-check --judge gpt-6-luna --limit 200 --repeats 2 --max-cost 1
  fedllm-bench judge-check --judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-32B
  fedllm-bench judge-check --judge gpt-6-luna --offline --json check.json
  fedllm-bench judge-check --votes votes.csv                              judges of your own with each other
  fedllm-bench judge-check --reviews reviews.jsonl                        sums of scores, as in the Vicuna blog

Without a judge, the published votes of MT-Bench's experts and of GPT-4 are compared with each other. With one, it is
asked about pairs of answers that experts voted on, each in both orders. Replies are kept: the same command again asks
only what has no reply yet. See docs/comparing.md. A file of votes is CSV or JSON lines with question, model_a, model_b,
winner (model_a, model_b or tie) and judge, and a turn (1 or 2) where there is more than one; or PandaLM's test set, or
rankings (source, system, judge, and rank or score). See docs/judges.md.
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
    asked = parser.add_argument_group("the judge (without one, only published votes are compared)")
    asked.add_argument("--judge", metavar="NAME|FILE", help="a preset's name or a .toml file of one's own")
    asked.add_argument("--judge-url", metavar="URL", help="another address, as http://localhost:8000/v1")
    asked.add_argument("--judge-model", metavar="MODEL", help="another model, as its server lists it")
    asked.add_argument("--concurrency", metavar="N", type=judge.count, help="requests at once (the judge's own limit)")
    judge.add_sent(asked)
    asked.add_argument(
        "--limit",
        metavar="N",
        type=positive,
        help="ask about N of the 1,633 pairs of answers, spread over questions",
    )
    asked.add_argument("--repeats", metavar="N", type=judge.count, default=1, help="ask everything N times (1)")
    asked.add_argument("--offline", action="store_true", help="ask nothing; measure the replies that are kept")
    cost = parser.add_argument_group("cost")
    cost.add_argument("--max-cost", metavar="USD", type=judge.dollars, help="stop before this command has cost more")
    cost.add_argument("--yes", action="store_true", help="ask without a limit of the cost")
    cost.add_argument("--dry-run", action="store_true", help="only estimate the cost")
    parser.add_argument(
        "--out", type=Path, default=Path("judge-checks"), metavar="DIR", help="where replies are kept (judge-checks)"
    )
    parser.add_argument("--votes", type=Path, metavar="FILE", help="compare the judges of these votes with each other")
    parser.add_argument("--reviews", type=Path, metavar="FILE", help='sum the scores of reviews of pairs ("8 9")')
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.report.page.judge_text import judge_check_text

    if args.reviews:
        return _reviews(args)
    named = args.judge or args.judge_url or args.judge_model
    if args.offline and not named:
        raise UserError("--offline measures the kept replies of a judge; name it with --judge")
    if args.votes and (named or args.offline):
        raise UserError("--votes compares the judges of a file, and asks nobody; leave out the judge")
    payload = _measured(args) if named else _votes(args.votes) if args.votes else _published()
    if payload is None:
        return 0
    say(judge_check_text(payload))
    say_json(args.json, payload)
    return 0


def _reviews(args: argparse.Namespace) -> int:
    from fedllm_bench.evaluation.judging.pair_reviews import totals_of
    from fedllm_bench.report.page.judge_text import reviews_text

    if args.judge or args.judge_url or args.judge_model or args.offline or args.votes:
        raise UserError("--reviews sums the scores of a file, and asks nobody; leave out the judge and --votes")
    payload = totals_of(args.reviews)
    say(reviews_text(payload))
    say_json(args.json, payload)
    return 0


def _votes(path: Path) -> dict[str, Any]:
    from fedllm_bench.evaluation.judging.judge_check import votes_check
    from fedllm_bench.evaluation.judging.vote_files import read_vote_file

    return votes_check(read_vote_file(path))


def _published() -> dict[str, Any]:
    from fedllm_bench.evaluation.judging.judge_check import published_check
    from fedllm_bench.evaluation.judging.votes import expert_votes, gpt4_votes

    return published_check(expert_votes(), gpt4_votes())


def _measured(args: argparse.Namespace) -> dict[str, Any] | None:
    """What is found; None where only the cost was asked for."""
    from fedllm_bench.evaluation.judging.judge_check import check_of
    from fedllm_bench.evaluation.judging.judging import judge_of
    from fedllm_bench.evaluation.judging.pair_judging import pair_works, sample
    from fedllm_bench.evaluation.judging.pair_prompts import mt_bench_material
    from fedllm_bench.evaluation.judging.spending import check_stopped
    from fedllm_bench.evaluation.judging.votes import expert_votes

    preset = judge.preset_of(args)
    if preset.kind == "rule":
        raise UserError(f"--judge {preset.name}: a rule for prompts with one right answer, which MT-Bench has not")
    if args.offline:
        material, matches = mt_bench_material(), sample((vote.match for vote in expert_votes()), args.limit)
        return check_of(args.out, preset, matches, material)
    with judge_of(preset, max_cost=args.max_cost) as asked:  # it may lack its key: before anything is fetched
        material, matches = mt_bench_material(), sample((vote.match for vote in expert_votes()), args.limit)
        found = judge.ask(args, pair_works(args.out, preset, matches, material, args.repeats), asked)
    if found is None:
        return None
    check_stopped(asked, args.max_cost, found.reasons)
    return check_of(args.out, preset, matches, material)
