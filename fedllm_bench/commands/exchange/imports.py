"""`fedllm-bench import`: answers and judgements that were made elsewhere, as the records of this suite."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.bench import positive
from fedllm_bench.commands.exchange import import_judgements
from fedllm_bench.commands.terminal import parser_of, say
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import at_home

if TYPE_CHECKING:
    from fedllm_bench.evaluation.answering.importing import Imported, Target
    from fedllm_bench.evaluation.benchmarks import PromptContext
    from fedllm_bench.evaluation.imported_files import ImportedAnswer

EXAMPLES = """\
examples:
  fedllm-bench import answers model_answer/vicuna-13b.jsonl --benchmark mt_bench --out answers-d
  fedllm-bench import judgements model_judgment/gpt-4_single.jsonl --out answers-d
  fedllm-bench evaluate answers-d --judge gpt-6-luna --max-cost 5
"""
ANSWERS = """\
examples:
  fedllm-bench import answers model_answer/vicuna-13b.jsonl --benchmark mt_bench --out answers-d
  fedllm-bench import answers model_outputs.json --benchmark vicuna_bench --side global --out answers-d
  fedllm-bench import answers turn-1.out.jsonl turn-2.out.jsonl --benchmark mt_bench --out answers-d
  fedllm-bench import answers outputs.json --model my-model --benchmark vicuna_bench --out answers-d

FILE is what FastChat (model_answer), alpaca_eval (outputs), lm-eval (samples), an OpenAI or vLLM batch (its output) or
anybody (lines of id, and text or turns) wrote: JSON lines or a JSON array. Then `judge`, `report`, `compare` and
`evaluate` take the folder. The same import changes nothing; another file for the same side is refused. See
docs/answers.md.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = parser_of(subparsers, "import", "take answers and judgements that were made elsewhere", EXAMPLES)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_answers(commands)
    import_judgements.add_parser(commands)


def _add_answers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parser_of(commands, "answers", "take answers to the questions of a benchmark", ANSWERS)
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help="answers; several, as one for each turn")
    parser.add_argument("--model", metavar="NAME", help="only the answers of this model, as the file names it")
    parser.add_argument("--side", metavar="NAME", default="base", help="whose answers they are here (default: base)")
    add_questions(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where answers/ is made")
    parser.set_defaults(run=run_answers)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Which questions: of a benchmark, some of which hang on a data set or a split."""
    parser.add_argument("--benchmark", metavar="NAME", required=True, help="whose questions, as mt_bench")
    parser.add_argument("--dataset", help="for ref_gpt4: a data set, as aya")
    parser.add_argument("--split", metavar="DIR", help="for heldout_ref and mini: a client split")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N items only, for trying out")


def context_of(args: argparse.Namespace) -> PromptContext:
    """What prompts hang on. Raises a :class:`UserError` for what a benchmark lacks, before anything is fetched."""
    from fedllm_bench.data.manifest import open_split
    from fedllm_bench.evaluation.benchmarks import PromptContext, check_named, named

    if len(named(args.benchmark)) > 1:
        raise UserError(f"--benchmark {args.benchmark}: give one benchmark")
    split = at_home(args.split) if args.split else None
    context = PromptContext(dataset=args.dataset, split=None if split is None else lambda: open_split(split))
    check_named(args.benchmark, context)
    return context


def run_answers(args: argparse.Namespace) -> int:
    from fedllm_bench.evaluation.answering.importing import Target, import_answers
    from fedllm_bench.evaluation.benchmarks import Overrides, make_prompts, named
    from fedllm_bench.evaluation.imported_files import read_files
    from fedllm_bench.evaluation.records import checked_side

    side, context = checked_side(args.side.strip()), context_of(args)
    read = _of_model(read_files(args.files), args)
    (benchmark,), overrides = named(args.benchmark), Overrides(limit=args.limit)
    prompts = make_prompts(benchmark, context, overrides)
    to = Target(
        benchmark=benchmark,
        prompts=prompts,
        overrides=overrides,
        folder=args.out,
        side=side,
        model=args.model or "",
    )
    _say(import_answers(args.files, read, to), to)
    return 0


def _of_model(read: tuple[str, list[ImportedAnswer]], args: argparse.Namespace) -> tuple[str, list[ImportedAnswer]]:
    """Only the rows of --model, where it is given."""
    form, rows = read
    if args.model is None:
        return form, rows
    kept = [row for row in rows if row.model == args.model]
    if not kept:
        named = ", ".join(ascii(name) for name in sorted({row.model for row in rows} - {""})[:5])
        raise UserError(f"--model {args.model}: {args.files[0]} has no answer of it; it names {named or 'nobody'}")
    return form, kept


def _say(found: Imported, to: Target) -> None:
    from fedllm_bench.evaluation.answering.importing import few, told

    of_model = f" of {few(found.models, 100)}" if len(found.models) == 1 else ""
    say(f"{to.benchmark.name:<13} {to.side:<14} {found.form}{of_model}")
    say(f"Imported  {told(found)}")
    if len(found.models) > 1:
        named = few(found.models, 100)
        say(f"Note      answers of {len(found.models)} models: {named}; --model NAME takes those of one")
    say(f"Answers   {to.folder / 'answers'}")
