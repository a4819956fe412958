"""The part of `answer` and `evaluate` that asks closed benchmarks, and the list of all benchmarks."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands.terminal import say
from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted

if TYPE_CHECKING:
    from fedllm_bench.evaluation.answering.subjects import Subject
    from fedllm_bench.evaluation.closed.declared import ClosedBenchmark
    from fedllm_bench.evaluation.closed.run_closed import ClosedRequest

TEMPLATES = ("none", "model", "train")  # run_closed.TEMPLATES, without loading torch for --help
SANDBOXES = ("auto", "process", "bubblewrap", "docker")  # sandbox.choice.SANDBOXES, likewise
OPTIONS = ("closed_template", "data_dir", "allow_code", "sandbox")
OF_OPEN = ("temperature", "max_new_tokens", "retry_failed")  # of `answer`: a closed task has its own


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("closed benchmarks, asked by lm-eval (docs/closed.md)")
    group.add_argument(
        "--closed-template",
        choices=TEMPLATES,
        help="questions as bare texts (none, the usual), in the base's own chat template, or in that of training",
    )
    group.add_argument("--data-dir", metavar="DIR", type=Path, help="files in place of the hub: ORG__NAME/SPLIT.jsonl")
    group.add_argument("--allow-code", action="store_true", help="run the programs that a model writes, in a sandbox")
    group.add_argument("--sandbox", choices=SANDBOXES, help="where they run (docs/code.md); auto: the best here")


class ListMetrics(argparse.Action):
    """`--list-metrics`: says what can be asked, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for line in _listed():
            say(line)
        parser.exit()


def _listed() -> Iterator[str]:
    from fedllm_bench.evaluation.benchmarks import BENCHMARKS
    from fedllm_bench.evaluation.closed.declared import closed_benchmarks, closed_groups

    yield f"Open-ended  {', '.join(sorted(BENCHMARKS))}"
    yield "Closed, asked by lm-eval:"
    benchmarks, groups = closed_benchmarks(), closed_groups()
    width = max(map(len, (*benchmarks, *groups)))
    for name, benchmark in sorted(benchmarks.items()):
        task = benchmark.task[0] if len(benchmark.task) == 1 else f"{len(benchmark.task)} tasks"
        code = ", runs code" if benchmark.needs_code else ""
        shots = "1 shot" if benchmark.shots == 1 else f"{benchmark.shots} shots"
        yield f"  {name:<{width}} {task:<42} {shots}{code}; {benchmark.data}"
    yield "Groups:"
    for name, members in sorted(groups.items()):
        yield f"  {name:<{width}} {', '.join(members)}"


def request_of(args: argparse.Namespace, closed: Sequence[ClosedBenchmark]) -> ClosedRequest:
    """What is asked. Raises a :class:`UserError` for what closed benchmarks cannot be asked of, before anything is."""
    from fedllm_bench.evaluation.closed.run_closed import ClosedRequest, check_closed

    name = closed[0].name
    if args.endpoint:
        raise UserError(
            f"{name}: a closed benchmark asks the model for likelihoods, so it takes RUN, --model or --adapter"
        )
    for option in OF_OPEN:
        if getattr(args, option):
            raise UserError(f"--{option.replace('_', '-')}: not with {name}, whose task says it; leave it out")
    if args.sandbox and not args.allow_code:
        raise UserError("--sandbox says where programs run, which --allow-code must permit; give both, or neither")
    request = ClosedRequest(
        folder=args.out or args.run_folder,
        benchmarks=closed,
        template=args.closed_template,
        limit=args.limit,
        seed=args.seed,
        batch_tokens=args.batch_tokens,
        threads=args.threads,
        allow_code=args.allow_code,
        sandbox=args.sandbox or "auto",
        data=args.data_dir,
        world_seed=_world_seed(args.run_folder),
    )
    check_closed(request)
    return request


def _world_seed(folder: Path | None) -> int:
    from fedllm_bench.evaluation.answering.subjects import open_run

    return 0 if folder is None else open_run(folder).config.data.world_seed


def ask(request: ClosedRequest, subject: Subject) -> None:
    from fedllm_bench.evaluation.closed.run_closed import run_closed

    reasons: Counter[str] = Counter()
    for done in run_closed(request, subject, hardware.num_threads()):
        failed = f", {len(done.failed)} unscored" if done.failed else ""
        there = "" if done.is_new else " (there before)"
        say(f"{done.benchmark.name:<13} {done.side:<14} {counted(len(done.samples), 'item')}{failed}{there}")
        reasons.update(sample.reason for sample in done.failed)
    say(f"Samples   {request.folder / 'closed'}")
    for reason, count in reasons.most_common(1):
        say(f"Unscored  {counted(sum(reasons.values()), 'item')}, {count} of them: {reason}")
