"""`fedllm-bench answer`: a model's answers to open-ended benchmarks, for judges and rules to score."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.asking import closed
from fedllm_bench.commands.asking.endpoints import LEAVABLE, endpoints_of, sides_of
from fedllm_bench.commands.bench import num_threads, positive
from fedllm_bench.commands.judge import count
from fedllm_bench.commands.terminal import say
from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import at_home
from fedllm_bench.common.text import counted

if TYPE_CHECKING:
    from fedllm_bench.config.run import Ray
    from fedllm_bench.evaluation.answering.answer_run import AnswerRequest, Done
    from fedllm_bench.evaluation.answering.remote_answers import EndpointAnswerer
    from fedllm_bench.evaluation.answering.subjects import Subject
    from fedllm_bench.evaluation.benchmarks import PromptContext

DTYPES = ("float32", "bfloat16", "float16")
EXAMPLES = """examples:
  fedllm-bench answer runs/mini-aya/fedavg/s0-0123456789 --metrics mini,harmless
  fedllm-bench answer runs/aya/fedavg/s0-0123456789 --metrics mt_bench,vicuna_bench,advbench,ref_gpt4
  fedllm-bench answer runs/aya/local/s0-0123456789 --metrics mt_bench --sides base,client-017
  fedllm-bench answer --adapter my-adapter --model meta-llama/Llama-2-7b-hf --template alpaca --metrics mt_bench --out answers-a
  fedllm-bench answer --model my-model --metrics mt_bench --out answers-b            (its own chat template)
  fedllm-bench answer --endpoint http://127.0.0.1:8000/v1 --model NAME --metrics mt_bench --out answers-c
  fedllm-bench answer --endpoint http://127.0.0.1:8000/v1 --model NAME --sides base,global --metrics mt_bench --out answers-c

Benchmarks: mt_bench, vicuna_bench, alpaca_eval, advbench, harmless, ref_gpt4, heldout_ref, mini (docs/answers.md), and
closed ones, as mmlu,gsm8k (fedllm-bench evaluate --list-metrics), which RUN, --model or --adapter answers. Answers lie in
DIR/answers/<benchmark>/<side>.jsonl. Whatever was interrupted goes on where it stopped when the same command is given
again. No judge is needed here. Answers made elsewhere: fedllm-bench import answers.
"""  # noqa: E501


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "answer",
        help="answer open-ended benchmarks: a run, an adapter, a model or an endpoint",
        description="Answer open-ended benchmarks with a run, an adapter, a model or an endpoint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, nargs="?", help="a finished run folder")
    parser.add_argument("--metrics", required=True, help="benchmarks with commas between, as mt_bench,advbench")
    parser.add_argument("--sides", help="who answers, with commas between (default: base and global, or 5 clients)")
    _add_others(parser)
    _add_settings(parser)
    closed.add_options(parser)
    parser.set_defaults(run=run)


def _add_others(parser: argparse.ArgumentParser) -> None:
    others = parser.add_argument_group("in place of RUN")
    others.add_argument("--adapter", metavar="DIR", type=Path, help="a LoRA adapter in PEFT's format")
    others.add_argument("--model", help="a folder, an id of the hub or mini; the endpoint's name for it")
    others.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible address, as http://host:8000/v1")
    others.add_argument("--served", metavar="SIDE=NAME", type=_served, action="append", default=[],
                        help="the endpoint's name for a side (default: the side's own); may be repeated")  # fmt: skip
    others.add_argument("--import", type=_moved, help=argparse.SUPPRESS)
    others.add_argument("--template",
                        help="alpaca, alpaca_input, vicuna_v1.1, mini, plain or model (the base's own)")  # fmt: skip
    others.add_argument("--dtype", choices=DTYPES, help="of the model (default: bfloat16 on a GPU, else float32)")
    others.add_argument("--dataset", help="for ref_gpt4: a data set, as aya")
    others.add_argument("--split", metavar="DIR", help="for heldout_ref and mini: a client split")
    others.add_argument("--api-key-env", metavar="NAME", default="OPENAI_API_KEY", help="variable with the key")
    others.add_argument("--concurrency", type=count, default=8, metavar="N", help="requests at once (default 8)")
    others.add_argument("--token-limit-name", default="max_tokens", metavar="NAME",
                        help="what the endpoint calls it, as max_completion_tokens (default max_tokens)")  # fmt: skip
    for name in LEAVABLE:
        others.add_argument(f"--no-{name}", action="store_true", help=f"send no {name}, for endpoints that refuse it")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="where answers/ is made (default: RUN)")
    parser.add_argument("--seed", type=whole, default=0, help="of sampled answers (default 0)")
    parser.add_argument("--temperature", type=_temperature, metavar="T", help="for all items (default: as published)")
    parser.add_argument("--max-new-tokens", type=positive, metavar="N", help="for all items (default: as published)")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N items only, for trying out")
    parser.add_argument("--batch-tokens", type=positive, metavar="N", help="tokens in the making (default: by memory)")
    parser.add_argument(
        "--threads", type=num_threads, metavar="N", help="cores to use (default: all, or OMP_NUM_THREADS)"
    )
    parser.add_argument("--engine", metavar="NAME", help="inprocess, or ray: its workers (default: as RUN was trained)")
    parser.add_argument("--retry-failed", action="store_true", help="ask items again that have failed before")


def _served(text: str) -> tuple[str, str]:
    side, _, name = text.partition("=")
    if not side.strip() or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not SIDE=NAME, as global=my-adapter")
    return side.strip(), name.strip()


def _moved(text: str) -> str:
    raise argparse.ArgumentTypeError(f"it is a command of its own now: fedllm-bench import answers {text[:200]} "
                                     "--benchmark NAME --out DIR")  # fmt: skip


def whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number, 0 or more")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10")
    return value


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.evaluation.closed.asked_names import parted

    _check_source(args)
    opened, found = parted(args.metrics)
    request = closed.request_of(args, found) if found else None
    args.metrics = opened if found else args.metrics
    from fedllm_bench.evaluation.answering.answer_side import locked
    from fedllm_bench.evaluation.benchmarks import check_named

    context, folder = _context(args), args.out or args.run_folder
    if args.metrics:
        check_named(args.metrics, context)
    endpoints = endpoints_of(args) if args.endpoint else {}
    subject = None if endpoints else _subject(args)
    with locked(folder):
        if args.metrics:
            _answer(args, context, subject, endpoints)
        if request is not None and subject is not None:
            closed.ask(request, subject)
    return 0


def _answer(
    args: argparse.Namespace, context: PromptContext, subject: Subject | None, endpoints: dict[str, EndpointAnswerer]
) -> None:
    """Open-ended benchmarks, by `subject` or, without one, by what stands behind the endpoints."""
    from fedllm_bench.evaluation.answering.answer_run import answer_locally, answer_remotely

    order = _order(args, context)
    if subject is None:
        work = answer_remotely(order, endpoints)
    else:
        work = answer_locally(order, subject, hardware.num_threads())
    found = [_shown(done) for done in work]
    say(f"Answers   {order.folder / 'answers'}")
    _say_failed([answer.reason for done in found for answer in done.outcome.failed])


def _say_failed(reasons: list[str]) -> None:
    if reasons:
        ((commonest, _),) = Counter(reasons).most_common(1)
        say(f"Failed    {counted(len(reasons), 'item', 'have')} no whole answer, as: {commonest}")
        say("          their records say why; --retry-failed asks them again")


def _check_source(args: argparse.Namespace) -> None:
    """Exactly one thing answers, and there is a place for what it says."""
    given = [name for name in ("run_folder", "adapter", "endpoint") if getattr(args, name)]
    if len(given) > 1:
        raise UserError("RUN, --adapter and --endpoint: one at a time; see fedllm-bench answer --help")
    if not given and not args.model:
        raise UserError("nothing to answer: give RUN, --adapter, --model or --endpoint; see fedllm-bench "
                        "answer --help")  # fmt: skip
    if args.run_folder:
        _refuse(args, "model", "template", "dtype", "dataset", "split")
    elif args.out is None:
        raise UserError("--out: not given; without RUN, name a folder for the answers")
    if args.served and not args.endpoint:
        raise UserError("--served: only with --endpoint, whose names of sides it gives; leave it out")
    if args.endpoint:
        _refuse(args, "template", "dtype", "batch_tokens", "threads", "engine")
        if not args.model:
            raise UserError(f"--endpoint {args.endpoint}: give --model, the name that the server knows it by")
        from fedllm_bench.common.network import checked_address

        checked_address(args.endpoint, "--endpoint")


def _refuse(args: argparse.Namespace, *names: str) -> None:
    source = "RUN, which says it" if args.run_folder else "--endpoint, which says it"
    for name in names:
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: not with {source}; leave it out")


def _order(args: argparse.Namespace, context: PromptContext) -> AnswerRequest:
    """What is asked. It is fetched here, so everything else must have been checked before."""
    from fedllm_bench.evaluation.answering.answer_run import AnswerRequest
    from fedllm_bench.evaluation.benchmarks import Overrides, make_prompts, named

    ray = _ray(args)
    overrides = Overrides(temperature=args.temperature, max_new_tokens=args.max_new_tokens, limit=args.limit)
    return AnswerRequest(
        folder=args.out or args.run_folder,
        asked=[(benchmark, make_prompts(benchmark, context, overrides)) for benchmark in named(args.metrics)],
        overrides=overrides,
        seed=args.seed,
        batch_tokens=args.batch_tokens,
        threads=args.threads,
        retry_failed=args.retry_failed,
        ray=ray,
        sides=tuple(sides_of(args) or ()) if args.endpoint else (),
    )


def _ray(args: argparse.Namespace) -> Ray | None:
    from fedllm_bench.evaluation.answering.run_answers import workers_of
    from fedllm_bench.runs.folder import RunFolder

    return workers_of(args.engine, RunFolder(args.run_folder).config if args.run_folder else None)


def _context(args: argparse.Namespace) -> PromptContext:
    from fedllm_bench.data.manifest import open_split
    from fedllm_bench.evaluation.benchmarks import PromptContext

    if args.run_folder:
        from fedllm_bench.evaluation.answering.run_answers import context_of_run

        return context_of_run(args.run_folder)
    split = at_home(args.split) if args.split else None
    return PromptContext(dataset=args.dataset, split=None if split is None else lambda: open_split(split))


def _subject(args: argparse.Namespace) -> Subject:
    import torch

    from fedllm_bench.data.templates.sources import MODEL, check_name
    from fedllm_bench.evaluation.answering import subjects

    wanted = sides_of(args)
    if args.run_folder:
        return subjects.subject_of_run(args.run_folder, wanted)
    dtype = args.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    template = args.template or MODEL
    check_name(template)  # an unknown one is refused before a model is fetched
    if args.adapter:
        subject = subjects.subject_of_adapter(args.adapter, args.model, template, dtype)
    else:
        subject = subjects.subject_of_model(args.model, template, dtype)
    return subjects.only(subject, wanted)


def _shown(done: Done) -> Done:
    answers = done.outcome.answers
    tokens = sum(count for answer in answers for count in answer.tokens)
    items = counted(len(answers), "item")
    failed = f", {len(done.outcome.failed)} failed" if done.outcome.failed else ""
    there = "" if done.outcome.new else " (there before)"
    say(f"{done.benchmark:<13} {done.side:<14} {items}, {counted(f'{tokens:,}', 'token')}{failed}{there}")
    return done
