"""`fedllm-bench evaluate`: answer, judge and report, one after another, on one run folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from fedllm_bench.commands import answer, judge, report
from fedllm_bench.commands.terminal import add_plugins
from fedllm_bench.common.errors import UserError

PUBLISHED = "mt_bench,vicuna_bench,advbench,harmless,ref_gpt4"
OFFLINE, RULE = "mini,harmless", "mini_rule"  # what a run of the embedded world is asked, and who grades it
FLAGS = ("yes", "no-system-role", "no-temperature", "no-seed")  # of `judge`
EXAMPLES = """examples:
  fedllm-bench evaluate runs/mini-aya/fedavg/s0-0123456789                              (offline, in seconds)
  fedllm-bench evaluate runs/aya/fedavg/s0-0123456789 --judge gpt-6-luna --max-cost 5
  fedllm-bench evaluate RUN --metrics mt_bench --judge-url http://localhost:8000/v1 --judge-model Qwen/Qwen3-32B
  fedllm-bench evaluate RUN --metrics advbench,harmless                                (rules alone: no judge)
  fedllm-bench evaluate answers-d --judge gpt-6-luna --max-cost 5                      (a folder of answers)
  fedllm-bench evaluate RUN --metrics mini --plugin my_metric.py                       (docs/plugins.md)

The same as `fedllm-bench answer`, `judge` and `report`, which have more options. Without --judge nothing is asked of
anybody: answers are kept, and metrics that need a judge are unscored. A run of profile mini is asked the questions of
the embedded world, which a rule grades. A folder of answers alone (`fedllm-bench answer --out`) is judged and reported
as it stands. Interrupt it: the same command goes on where it stopped.
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
    parser.add_argument("--metrics", help=f"benchmarks with commas between (default: {PUBLISHED})")
    parser.add_argument("--sides", help="who answers, with commas between (default: base and global, or 5 clients)")
    parser.add_argument("--limit", metavar="N", help="the first N items only, for trying out")
    parser.add_argument("--threads", metavar="N", help="cores to use (default: all, or OMP_NUM_THREADS)")
    parser.add_argument("--judge", metavar="NAME|FILE", help="a preset's name or a .toml file of one's own")
    parser.add_argument("--judge-url", metavar="URL", help="another address, as http://localhost:8000/v1")
    parser.add_argument("--judge-model", metavar="MODEL", help="another model, as its server lists it")
    judge.add_sent(parser.add_argument_group("what the judge is sent"))
    parser.add_argument("--max-cost", metavar="USD", help="stop before this command has cost more")
    parser.add_argument("--yes", action="store_true", help="ask without a limit of the cost")
    parser.add_argument("--embedding-model", metavar="MODEL", help="of sentence-transformers, for similarities")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    commands = _commands()
    stages = [commands.parse_args(words) for words in _stages(args)]  # a bad option ends before anything is asked
    _check_judge(stages[-2])
    _check_encoder(args.embedding_model)
    for stage in stages:
        stage.run(stage)
    return 0


def _check_judge(args: argparse.Namespace) -> None:
    """Raise a :class:`UserError` now for what `judge` would refuse after hours of answering."""
    if not (args.judge or args.judge_url or args.judge_model):
        return
    preset = judge.preset_of(args)
    if not judge.is_allowed(args, preset):
        raise UserError(f"the judge {preset.id} is paid: add --max-cost USD or --yes")


def _check_encoder(name: str | None) -> None:
    """Raise a :class:`UserError` now for a model that `report` would refuse; nothing is fetched."""
    if name:
        from fedllm_bench.diversity.embedding.encoder import local_encoder

        local_encoder(name)


def _commands() -> argparse.ArgumentParser:
    from fedllm_bench.commands.terminal import Parser

    parser = Parser(prog="fedllm-bench", allow_abbrev=False)
    subparsers = parser.add_subparsers()
    for command in (answer, judge, report):
        command.add_parser(subparsers)
    return parser


def _stages(args: argparse.Namespace) -> Iterator[list[str]]:
    """The words of each command; answers that lie alone in a folder are made already."""
    run_folder = str(args.run_folder)
    benchmarks = _answered(args.run_folder)
    if benchmarks is None:
        is_mini = _is_mini(args.run_folder)
        metrics = args.metrics or (OFFLINE if is_mini else PUBLISHED)
        yield ["answer", run_folder, "--metrics", metrics, *_given(args, "sides", "limit", "threads")]
        is_ruled, judged = is_mini and "mini" in metrics.split(","), []
    else:
        _check_answered(args, benchmarks)
        is_ruled = "mini" in (args.metrics.split(",") if args.metrics else benchmarks)
        judged = _given(args, "metrics")
    asked = _given(args, "judge", "judge_url", "judge_model", "max_cost", "token_limit_name")
    asked += [f"--{name}" for name in FLAGS if getattr(args, name.replace("-", "_"))]
    if is_ruled and not (args.judge or args.judge_url or args.judge_model):
        asked, judged = [*asked, "--judge", RULE], ["--metrics", "mini"]
    yield ["judge", run_folder, *asked, *judged, *_given(args, "sides")]
    yield ["report", run_folder, *_given(args, "embedding_model")]


def _answered(folder: Path) -> list[str] | None:
    """The benchmarks of a folder of answers alone, which `answer --out` made; None for any other folder."""
    if (folder / "config.json").exists() or not (folder / "answers").is_dir():
        return None
    return sorted(path.parent.name for path in (folder / "answers").glob("*/prompts.jsonl"))


def _check_answered(args: argparse.Namespace, benchmarks: list[str]) -> None:
    """Raise a :class:`UserError` for what only a run can be asked."""
    for name in ("limit", "threads"):
        if getattr(args, name):
            raise UserError(f"--{name}: {args.run_folder} is a folder of answers, which exist already; leave it out")
    wanted = [name.strip() for name in (args.metrics or "").split(",") if name.strip()]
    if missing := [name for name in wanted if name not in benchmarks]:
        there = ", ".join(benchmarks) or "none"
        raise UserError(f"--metrics {missing[0]}: {args.run_folder} has no answers to it, but to {there}")


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    """The options of these names that were given, as words."""
    found = {name: getattr(args, name) for name in names}
    return [word for name, value in found.items() if value for word in (f"--{name.replace('_', '-')}", value)]


def _is_mini(folder: Path) -> bool:
    from fedllm_bench.common import files

    try:
        return bool(files.read_json(folder / "config.json")["profile"] == "mini")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"RUN={folder} is no run folder, and has no answers/; give one that `fedllm-bench bench` printed as "
            "`Run folder`, or a folder that `fedllm-bench answer --out` made"
        ) from error
