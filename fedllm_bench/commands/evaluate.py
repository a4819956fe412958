"""`fedllm-bench evaluate`: answer, judge and report, one after another, on one run folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from fedllm_bench.commands import answer, judge, report
from fedllm_bench.commands.asking import closed
from fedllm_bench.commands.terminal import add_plugins
from fedllm_bench.pipeline.evaluating import PUBLISHED, RULE, EvaluationPlan, check_encoder, plan_of

FLAGS = ("yes", "no-system-role", "no-temperature", "no-seed")  # of `judge`
EXAMPLES = """examples:
  fedllm-bench evaluate runs/mini-aya/fedavg/s0-0123456789                              (offline, in seconds)
  fedllm-bench evaluate runs/aya/fedavg/s0-0123456789 --judge gpt-6-luna --max-cost 5
  fedllm-bench evaluate RUN --metrics mt_bench --judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-32B
  fedllm-bench evaluate RUN --metrics advbench,harmless                                (rules alone: no judge)
  fedllm-bench evaluate RUN --metrics mmlu,gsm8k,mt_bench --judge gpt-6-luna --max-cost 5  (closed ones too: lm-eval)
  fedllm-bench evaluate RUN --metrics openfedllm_medical --limit 100                   (a group; first 100 of each task)
  fedllm-bench evaluate --list-metrics                                                 (all names)
  fedllm-bench evaluate answers-d --judge gpt-6-luna --max-cost 5                      (a folder of answers)
  fedllm-bench evaluate RUN --metrics mini --plugin my_metric.py                       (docs/plugins.md)

The same as `fedllm-bench answer`, `judge` and `report`, which have more options. Without --judge nothing is asked of
anybody: answers are kept, and metrics that need a judge are unscored. A run on the mini data is asked the questions of
the invented world, which a rule grades. A run of profile mini or small on real rows is asked 100 held-out prompts of
its users and harmless questions, with answers of at most evaluation.max_new_tokens tokens; --metrics names others.
A folder of answers alone (`fedllm-bench answer --out`) is judged and reported as it stands. Interrupt it: the same
command goes on where it stopped.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="answer, judge and report a run, in one command",
        description="Answer open-ended benchmarks with a run, have the answers judged, and write the report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="a finished run folder, or a folder of answers")
    parser.add_argument("--metrics", help=f"with commas between (default: by profile and data; of paper {PUBLISHED})")
    parser.add_argument("--sides", help="who answers, with commas between (default: base and global, or 5 clients)")
    parser.add_argument("--limit", metavar="N", help="the first N items only, for trying out")
    parser.add_argument("--threads", metavar="N", help="cores to use (default: all, or OMP_NUM_THREADS)")
    parser.add_argument("--engine", metavar="NAME", help="inprocess, or ray: its workers (default: as RUN was trained)")
    parser.add_argument("--judge", metavar="NAME|FILE", help="a preset's name or a .toml file of one's own")
    parser.add_argument("--judge-url", metavar="URL", help="another address, as http://localhost:8000/v1")
    parser.add_argument("--judge-model", metavar="MODEL", help="another model, as its server lists it")
    judge.add_sent(parser.add_argument_group("what the judge is sent"))
    parser.add_argument("--max-cost", metavar="USD", help="stop before this command has cost more")
    parser.add_argument("--yes", action="store_true", help="ask without a limit of the cost")
    parser.add_argument("--embedding-model", metavar="MODEL", help="of sentence-transformers, for similarities")
    closed.add_options(parser)
    parser.add_argument("--list-metrics", action=closed.ListMetrics, help="list all benchmarks, and end")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    commands = _commands()
    stages = [commands.parse_args(words) for words in _stages(args)]  # a bad option ends before anything is asked
    for stage in stages:
        if stage.run is judge.run:
            _check_judge(stage)
    check_encoder(args.embedding_model)
    for stage in stages:
        stage.run(stage)
    return 0


def _check_judge(args: argparse.Namespace) -> None:
    """Raise a :class:`UserError` now for what `judge` would refuse after hours of answering."""
    from fedllm_bench.evaluation.judging.spending import check_allowed_now

    if _has_judge(args):
        check_allowed_now(judge.preset_of(args), max_cost=args.max_cost, is_unlimited=args.yes)


def _has_judge(args: argparse.Namespace) -> bool:
    return bool(args.judge or args.judge_url or args.judge_model)


def _commands() -> argparse.ArgumentParser:
    from fedllm_bench.commands.terminal import Parser

    parser = Parser(prog="fedllm-bench", allow_abbrev=False)
    subparsers = parser.add_subparsers()
    for command in (answer, judge, report):
        command.add_parser(subparsers)
    return parser


def _stages(args: argparse.Namespace) -> Iterator[list[str]]:
    """The words of each command; answers that lie alone in a folder are made already."""
    folder = str(args.run_folder)
    options = {"has_judge": _has_judge(args), "limit": args.limit, "threads": args.threads, "engine": args.engine}
    plan = plan_of(args.run_folder, args.metrics, **options)
    if plan.asked is not None:
        most = ["--max-new-tokens", str(plan.max_new_tokens)] if plan.max_new_tokens else []
        asked = ",".join(filter(None, (plan.asked, plan.closed)))
        yield ["answer", folder, "--metrics", asked, *most, *_given(args, "sides", "limit", "threads", "engine"),
               *(_closed_options(args) if plan.closed else ())]  # fmt: skip
    if plan.is_judged:
        yield _judged(args, plan)
    yield ["report", folder, *_given(args, "embedding_model")]


def _closed_options(args: argparse.Namespace) -> list[str]:
    return [*_given(args, "closed_template", "data_dir", "sandbox"), *(["--allow-code"] if args.allow_code else [])]


def _judged(args: argparse.Namespace, plan: EvaluationPlan) -> list[str]:
    asked = _given(args, "judge", "judge_url", "judge_model", "max_cost", "token_limit_name")
    asked += [f"--{name}" for name in FLAGS if getattr(args, name.replace("-", "_"))]
    asked += ["--judge", RULE] if plan.is_ruled else []
    asked += ["--metrics", plan.judged] if plan.judged else []
    return ["judge", str(args.run_folder), *asked, *_given(args, "sides")]


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    """The options of these names that were given, as words."""
    found = {name: getattr(args, name) for name in names}
    return [word for name, value in found.items() if value for word in (f"--{name.replace('_', '-')}", str(value))]
