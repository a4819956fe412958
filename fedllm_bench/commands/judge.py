"""`fedllm-bench judge`: answers graded by a judge, any model behind an OpenAI-compatible address."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.terminal import add_plugins, say
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

if TYPE_CHECKING:  # --help must not wait for pydantic and openai
    from fedllm_bench.evaluation.judges.cost import CostEstimate
    from fedllm_bench.evaluation.judges.preset import Preset
    from fedllm_bench.evaluation.judging.judging import Found, Judge, JudgingFile, Wanted

EXAMPLES = """examples:
  fedllm-bench judge RUN                                       what has answers; nothing is asked
  fedllm-bench judge RUN --judge gpt-6-luna --dry-run          what it would cost
  fedllm-bench judge RUN --judge gpt-6-luna --max-cost 5
  fedllm-bench judge RUN --judge my-judge.toml --metrics mt_bench --sides global --repeats 3 --yes
  fedllm-bench judge RUN --judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-32B
  fedllm-bench judge RUN --judge gpt-6-luna --pairwise OTHER_RUN --max-cost 5
  fedllm-bench judge RUN --judge gpt-4 --pairwise OTHER_RUN --scored --metrics vicuna_bench --max-cost 5
  fedllm-bench judge RUN --judge mini_rule                     profile mini: right answers are known
  fedllm-bench judge RUN --judge my_judge --plugin my_judge.py   a function of your own (docs/plugins.md)

RUN is a folder with answers/ from `fedllm-bench answer`. There is no default judge. Replies are kept in the cache
word for word: the same command again asks only what has no reply yet. See docs/judges.md.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "judge",
        help="let a judge grade a run's answers",
        description="Let a judge grade the answers of a run, one by one or in pairs against another run's.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a folder with answers/")
    judge = parser.add_argument_group("the judge")
    judge.add_argument("--judge", metavar="NAME|FILE", help="a preset's name or a .toml file of one's own")
    judge.add_argument("--judge-url", metavar="URL", help="another address, as http://localhost:8000/v1")
    judge.add_argument("--judge-model", metavar="MODEL", help="another model, as its server lists it")
    judge.add_argument("--concurrency", metavar="N", type=count, help="requests at once (the judge's own limit)")
    add_sent(judge)
    what = parser.add_argument_group("what is judged")
    what.add_argument("--metrics", metavar="NAMES", default="", help="benchmarks, with commas (all with answers)")
    what.add_argument("--sides", metavar="NAMES", default="", help="base, global, client-NAME, with commas (all)")
    what.add_argument("--repeats", metavar="N", type=count, default=1, help="ask everything N times (1)")
    what.add_argument("--pairwise", metavar="RUN", type=Path, help="compare with this run's answers, in both orders")
    what.add_argument("--against", metavar="SIDE", default="", help="with --pairwise: that run's side (the same one)")
    what.add_argument("--scored", action="store_true", help="with --pairwise: two scores for each pair, as in the "
                      "Vicuna blog")  # fmt: skip
    cost = parser.add_argument_group("cost")
    cost.add_argument("--max-cost", metavar="USD", type=dollars, help="stop before this command has cost more")
    cost.add_argument("--yes", action="store_true", help="ask without a limit of the cost")
    cost.add_argument("--dry-run", action="store_true", help="only estimate the cost")
    parser.add_argument("--min-coverage", metavar="SHARE", type=_share, help="show a mean from this share on (1)")
    add_plugins(parser)
    parser.set_defaults(run=run)


def add_sent(group: argparse._ArgumentGroup) -> None:
    """Options for servers that refuse a part of a request; they change the judge's id, as the same in its file do."""
    group.add_argument("--no-system-role", action="store_true", help="put the system prompt into the user's turn")
    group.add_argument("--no-temperature", action="store_true", help="send no temperature")
    group.add_argument("--no-seed", action="store_true", help="send no seed, where the judge's file has one")
    group.add_argument("--token-limit-name", metavar="NAME", help="what the server calls the limit of new tokens, as "
                       "max_completion_tokens (as in the judge's file)")  # fmt: skip


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to 1000")
    return int(text)


def dollars(text: str) -> float:
    return _number(text, 1e6, "a number of US dollars, 0 or more")


def _share(text: str) -> float:
    return _number(text, 1.0, "a share from 0 to 1")


def _number(text: str, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.evaluation.judging.judging import Wanted, answered_benchmarks

    if not args.run_folder.is_dir():
        raise UserError(f"there is no folder {args.run_folder}; give a run folder with answers/")
    if args.against and args.pairwise is None:
        raise UserError("--against names a side of the run of --pairwise; give both")
    if args.scored and args.pairwise is None:
        raise UserError("--scored is for pairs of answers; give --pairwise and the run with the other ones")
    wanted = Wanted(
        benchmarks=_names(args.metrics),
        sides=_names(args.sides),
        repeats=args.repeats,
        other=args.pairwise,
        other_side=args.against,
        is_scored=args.scored,
    )
    if not (args.judge or args.judge_url or args.judge_model):
        return _without_judge(args.run_folder, answered_benchmarks(args.run_folder))
    return _with_judge(args, preset_of(args), wanted)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def preset_of(args: argparse.Namespace) -> Preset:
    """The judge that the options name, with what they change of it."""
    from fedllm_bench.evaluation.judges.preset import load_judge

    preset = load_judge(args.judge, model=args.judge_model, base_url=args.judge_url)
    limits = replace(preset.limits, concurrency=args.concurrency) if args.concurrency else preset.limits
    preset = replace(preset, limits=limits, system_role=preset.system_role and not args.no_system_role)
    left_out = [name for name in ("seed", "temperature") if getattr(args, f"no_{name}")]
    return preset.sending(without=left_out, limit_name=args.token_limit_name)


def _without_judge(folder: Path, there: dict[str, list[str]]) -> int:
    from fedllm_bench.evaluation.judges.preset import judge_names

    for benchmark, sides in there.items():
        judges = sorted(path.parent.name for path in (folder / "judgements").glob(f"*/{benchmark}"))
        what = f"judged by {', '.join(judges)}" if judges else "judge metrics are unscored: no judge"
        say(f"{benchmark}: answers of {', '.join(sides)} are kept; {what}")
    if not there:
        say("no answers that judges grade; `fedllm-bench answer` makes them")
    say(f"give --judge, one of {', '.join(judge_names())} or a .toml file; or --judge-url and --judge-model")
    return 0


def _with_judge(args: argparse.Namespace, preset: Preset, wanted: Wanted) -> int:
    from fedllm_bench.evaluation.judging.judging import judge_of, works_of
    from fedllm_bench.evaluation.judging.spending import check_stopped

    works = works_of(args.run_folder, preset, wanted)
    if not args.dry_run:
        files.make_folder(args.run_folder)  # what cannot be written down is not asked
    with judge_of(preset, max_cost=args.max_cost) as judge:
        found = ask(args, works, judge)
        if found is not None:
            _report(works, judge, args.min_coverage)
    if found is not None:
        check_stopped(judge, args.max_cost, found.reasons)
    return 0


def ask(args: argparse.Namespace, works: Sequence[JudgingFile], judge: Judge) -> Found | None:
    """Say the cost and ask what has no reply yet; None where only the cost was asked for."""
    from fedllm_bench.evaluation.judges.cost import estimate
    from fedllm_bench.evaluation.judging.judging import judge_all, own_replies, sizes, to_ask

    found = own_replies(works, judge)
    expected = estimate(judge.preset, sizes(to_ask(works, judge, found)))
    _announce(judge.preset, expected)
    if args.dry_run:
        return None
    if expected.requests:
        _check_allowed(args, judge.preset, expected)
    judge_all(works, judge, found, expected.requests)
    return found


def _announce(preset: Preset, expected: CostEstimate) -> None:
    say(f"Judge      {preset.id}")
    if preset.note:
        say(f"Note       {preset.note}")
    if not expected.requests:
        say("Requests   none: every question has its reply")
        return
    cost = "unknown: the judge states no price" if expected.dollars is None else f"about ${expected.dollars:.2f}"
    date = f" at the prices of {preset.price.date}" if preset.price and preset.price.date else ""
    say(f"Requests   {expected.requests}")
    if not preset.is_free:
        each = expected.completion_tokens / expected.requests
        tokens = f"{expected.prompt_tokens:,.0f} tokens in, {expected.completion_tokens:,.0f} out"
        say(f"Cost       {cost}{date} (an estimate: {tokens}, 3.5 bytes a token, {each:.0f} a reply)")


def _check_allowed(args: argparse.Namespace, preset: Preset, expected: CostEstimate) -> None:
    from fedllm_bench.evaluation.judging.spending import is_allowed

    if is_allowed(preset, max_cost=args.max_cost, is_unlimited=args.yes):
        return
    cost = "an unknown sum" if expected.dollars is None else f"about ${expected.dollars:.2f}"
    raise UserError(
        f"{expected.requests} requests would cost {cost}; add --max-cost USD or --yes (or --dry-run to look)"
    )


def _report(works: Sequence[JudgingFile], judge: Judge, min_coverage: float | None) -> None:
    from fedllm_bench.evaluation.judging.grading import MIN_COVERAGE, mean_or_refusal, scores_of
    from fedllm_bench.evaluation.judging.judging import hashes_of
    from fedllm_bench.evaluation.judging.pairing import pair_scores_of
    from fedllm_bench.evaluation.judging.score_pairing import own_scores, scored_pairs
    from fedllm_bench.evaluation.records import Judgement, read_records

    say(f"{'benchmark':<14} {'side':<24} {'mean':>7}  scored")
    models: Counter[str] = Counter()
    for work in works:
        said = read_records(work.path, Judgement)
        models.update(judgement.reply.model for judgement in said if judgement.reply)
        hashes = hashes_of(work, judge)
        if work.is_scored:
            scores = own_scores(scored_pairs(work.prompts, said))
        elif work.is_paired:
            scores = pair_scores_of(work.prompts, said)
        else:
            scores = scores_of(work.prompts, work.answers, said, benchmark=work.benchmark, hashes=hashes)
        limit = MIN_COVERAGE if min_coverage is None else min_coverage
        graded = mean_or_refusal(scores, min_coverage=limit)
        mean = "none" if graded.mean is None else f"{graded.mean:.3f}"
        why = f"  ({graded.reason})" if graded.reason else ""
        say(f"{work.benchmark:<14} {work.side:<24} {mean:>7}  {graded.coverage}{why}")
    if set(models) - {judge.preset.model}:  # a name that moves, or a snapshot that changed in between
        say("Replied    " + ", ".join(f"{name or 'no name'} ({count})" for name, count in sorted(models.items())))
    if spent := judge.budget.spent:
        lost = f", up to ${judge.budget.uncertain:.4f} of it for lost replies" if judge.budget.uncertain else ""
        say(f"Cost       ${spent:.4f} by this command{lost}")
