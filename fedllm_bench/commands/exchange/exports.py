"""`fedllm-bench export`: what other tools can work on, read back by `fedllm-bench import`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.asking.endpoints import LEAVABLE
from fedllm_bench.commands.exchange.imports import add_questions, context_of
from fedllm_bench.commands.terminal import parser_of, say
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted

if TYPE_CHECKING:
    from fedllm_bench.evaluation.answering.exporting import Exported

FORMATS = ("jsonl", "openai", "vllm")
EXAMPLES = """\
examples:
  fedllm-bench export prompts --benchmark vicuna_bench --out prompts.jsonl
  fedllm-bench export prompts --benchmark mt_bench --format vllm --model my-model --out turn-1.jsonl
"""
PROMPTS = """\
examples:
  fedllm-bench export prompts --benchmark vicuna_bench --out prompts.jsonl
  fedllm-bench export prompts --benchmark vicuna_bench --format openai --model gpt-6-luna --out batch.jsonl

of two turns, as MT-Bench, each in a batch of its own:
  fedllm-bench export prompts --benchmark mt_bench --format vllm --model M --out turn-1.jsonl
  vllm run-batch -i turn-1.jsonl -o turn-1.out.jsonl --model M
  fedllm-bench export prompts --benchmark mt_bench --format vllm --model M --after turn-1.out.jsonl --out turn-2.jsonl
  vllm run-batch -i turn-2.jsonl -o turn-2.out.jsonl --model M
  fedllm-bench import answers turn-1.out.jsonl turn-2.out.jsonl --benchmark mt_bench --out answers-d

jsonl: a line has id, messages, temperature, max_tokens and seed; answer with lines of id and text. openai and vllm: the
input of a batch of chat completions. A file that is there and differs is never overwritten. See docs/answers.md.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = parser_of(subparsers, "export", "write prompts for inference elsewhere", EXAMPLES)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    parser = parser_of(commands, "prompts", "write the prompts of a benchmark for batch inference elsewhere", PROMPTS)
    add_questions(parser)
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="of the file (default: jsonl)")
    parser.add_argument("--model", metavar="NAME", help="for openai and vllm: who is asked, as the server lists it")
    parser.add_argument("--after", metavar="FILE", type=Path, nargs="+", default=[],
                        help="answers to the turns before (import answers --help): write the next turn")  # fmt: skip
    for name in LEAVABLE:
        parser.add_argument(f"--no-{name}", action="store_true", help=f"write no {name}, for models that refuse it")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.evaluation.benchmarks import Overrides, make_prompts, named
    from fedllm_bench.evaluation.imported_files import read_files

    if args.format != "jsonl" and not args.model:
        raise UserError(f"--format {args.format}: give --model, the name that the server knows it by")
    if args.format == "jsonl" and args.model:
        raise UserError("--model: only with --format openai or vllm, whose requests name it; leave it out")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: a folder; name a file")
    context = context_of(args)
    read = read_files(args.after) if args.after else None
    from fedllm_bench.evaluation.answering.exporting import RequestForm, export, write_requests

    (benchmark,) = named(args.benchmark)
    prompts = make_prompts(benchmark, context, Overrides(limit=args.limit))
    left_out = tuple(name for name in LEAVABLE if getattr(args, f"no_{name}"))
    form = RequestForm(name=args.format, model=args.model or "", left_out=left_out)
    found = export(prompts, read, benchmark=benchmark.name, form=form)
    write_requests(args.out, found)
    _say(args, found)
    return 0


def _say(args: argparse.Namespace, found: Exported) -> None:
    say(f"Prompts   {counted(len(found.requests), 'request')} of turn {found.turn} in {args.out}")
    if found.left_out:
        say(f"Left out  {counted(len(found.left_out), 'question', 'have')} no answer to turn {found.turn - 1}")
    earlier, of = " ".join(shlex.quote(str(path)) for path in args.after), _questions(args)
    answers = f"{earlier} ANSWERS" if earlier else "ANSWERS"
    if found.more_turns:
        say(f"Next      {counted(found.more_turns, 'question', 'have')} another turn: fedllm-bench export prompts "
            f"{of}{_form(args)} --after {answers} --out NEXT")  # fmt: skip
    say(f"Then      fedllm-bench import answers {answers} {of} --out DIR")


def _questions(args: argparse.Namespace) -> str:
    """The options that say which questions, so that answers come back to the same ones."""
    named = {"--benchmark": args.benchmark, "--dataset": args.dataset, "--split": args.split, "--limit": args.limit}
    return " ".join(f"{option} {shlex.quote(str(value))}" for option, value in named.items() if value is not None)


def _form(args: argparse.Namespace) -> str:
    words = "" if args.format == "jsonl" else f" --format {args.format} --model {shlex.quote(args.model)}"
    return words + "".join(f" --no-{name}" for name in LEAVABLE if getattr(args, f"no_{name}"))
