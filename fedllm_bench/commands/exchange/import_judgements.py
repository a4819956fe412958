"""`fedllm-bench import judgements`: what a judge said elsewhere, beside the answers that it was said about."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands.terminal import parser_of, say
from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.common.text import counted, part_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedllm_bench.evaluation.judging.judgement_import import JudgementImport
    from fedllm_bench.evaluation.judging.judging import Wanted
    from fedllm_bench.evaluation.judging.recorded_files import RecordedReply

EXAMPLES = """\
examples:
  fedllm-bench import judgements model_judgment/gpt-4_single.jsonl --out answers-d
  fedllm-bench import judgements model_judgment/gpt-4_pair.jsonl --out answers-d --against answers-e
  fedllm-bench import judgements gpt-4_single.jsonl --out RUN --side global --model my-model --benchmark mt_bench

DIR holds the answers that were judged: of `import answers`, or a run's. The rows of its model are taken, under the name
that its file of answers gave it (else --model). A reply counts where its recorded request is the one that the suite
would make about these answers, and its verdict is read anew. Results name the judge as imported. See docs/judges.md.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = parser_of(commands, "judgements", "take the recorded replies of a judge to answers of a folder", EXAMPLES)
    parser.add_argument("file", metavar="FILE", type=Path, help="FastChat's model_judgment, of single answers or pairs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder with the answers")
    parser.add_argument("--benchmark", metavar="NAME", help="whose answers (default: the only one that is there)")
    parser.add_argument("--side", metavar="NAME", help="whose answers (default: the only one that is there)")
    parser.add_argument("--model", metavar="NAME", help="how FILE names it (default: as its answers were imported)")
    parser.add_argument("--judge", metavar="NAME", help="of a file with several judges: this one")
    parser.add_argument("--against", metavar="DIR", type=Path, help="of pairs: the folder with the other answers")
    parser.add_argument("--against-side", metavar="NAME", help="their side (default: the only one that is there)")
    parser.add_argument("--against-model", metavar="NAME", help="how FILE names it (default: as it was imported)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fedllm_bench.evaluation.judging.judging import Wanted
    from fedllm_bench.evaluation.judging.recorded_files import read_recorded

    benchmark = _benchmark(args)
    side, model = _whose(args.out, benchmark, args.side, args.model, "")
    replies = read_recorded(args.file)
    models, other_side = [model], ""
    if is_paired := len(replies[0].models) > 1:
        other_side, other = _other(args, benchmark, model, replies)
        models.append(other)
    elif args.against:
        raise UserError(f"--against: {args.file} has judgements of single answers; leave it out")
    kept = _of_judge([reply for reply in replies if set(reply.models) == set(models)], args, models)
    wanted = Wanted(benchmarks=(benchmark,), sides=(side,), other=args.against if is_paired else None,
                    other_side=other_side)  # fmt: skip
    return _written(args, kept, models, wanted)


def _written(args: argparse.Namespace, replies: Sequence[RecordedReply], models: Sequence[str], wanted: Wanted) -> int:
    from fedllm_bench.evaluation.answering.answer_side import locked
    from fedllm_bench.evaluation.judging.judgement_import import imported_preset, match, write_import
    from fedllm_bench.evaluation.judging.judging import works_of

    preset = imported_preset(replies[0].judge)
    works = works_of(args.out, preset, wanted)
    if not works:
        what = f"judgements of pairs, which {wanted.benchmarks[0]} has none of"
        raise UserError(f"{args.file}: {what}; give those of single answers")
    found = match(works[0], preset, replies, models)
    if not found.num_replies:
        raise UserError(f"{args.file}: no reply of it is to what these answers ask; {told(found)}")
    with locked(args.out):
        is_new = write_import(works[0], preset, found, args.file)
    say(f"Judge     {preset.id}")
    say(f"Imported  {told(found)}{'' if is_new else ' (there before)'}")
    say(f"Verdicts  {_differing(found)}")
    say(f"Written   {works[0].path}")
    return 0


def _benchmark(args: argparse.Namespace) -> str:
    from fedllm_bench.evaluation.judging.judging import answered_benchmarks

    there = answered_benchmarks(args.out)
    if not there:
        raise UserError(f"--out {args.out}: no answers in it that judges grade; fedllm-bench import answers first")
    if args.benchmark is None and len(there) > 1:
        raise UserError(f"--benchmark: not given, and {args.out} has answers to {', '.join(there)}; name one")
    if args.benchmark is not None and args.benchmark not in there:
        raise unknown("answered benchmark", args.benchmark, there)
    return args.benchmark or next(iter(there))


def _whose(folder: Path, benchmark: str, side: str | None, model: str | None, which: str) -> tuple[str, str]:
    """The side of a folder, and the name of its model in the file. `which`: of the option, as "against-"."""
    from fedllm_bench.evaluation.answering.importing import models_of
    from fedllm_bench.evaluation.judging.judging import answered_benchmarks

    there = answered_benchmarks(folder).get(benchmark, [])
    if not there:
        raise UserError(f"{folder} has no answers to {benchmark}; give a folder that has")
    if side is not None and side not in there:
        raise unknown("side with answers", side, there)
    if side is None and len(there) > 1:
        raise UserError(f"--{which}side: not given, and {folder} has answers of {', '.join(there)}; name one")
    chosen = side or there[0]
    named = models_of(folder, benchmark, chosen)
    if model is None and len(named) != 1:
        raise UserError(f"--{which}model: not given, and the answers of {chosen} in {folder} name no single model; "
                        "say how the file names it")  # fmt: skip
    return chosen, model or named[0]


def _other(args: argparse.Namespace, benchmark: str, model: str, replies: Sequence[RecordedReply]) -> tuple[str, str]:
    """The side and the model of the other answers."""
    if args.against is None:
        others = sorted({name for reply in replies if model in reply.models for name in reply.models} - {model})
        raise UserError(f"--against: not given, and {args.file} has pairs; name the folder with the answers of the "
                        f"other model (there are pairs with: {_few(others) or 'nobody'})")  # fmt: skip
    side, other = _whose(args.against, benchmark, args.against_side, args.against_model, "against-")
    if other == model:
        raise UserError(f"--against {args.against}: its answers are of {model!a} too; give those of another model")
    return side, other


def _of_judge(
    replies: Sequence[RecordedReply], args: argparse.Namespace, models: Sequence[str]
) -> Sequence[RecordedReply]:
    """Those of one judge."""
    if not replies:
        raise UserError(f"{args.file}: no judgement of {' and '.join(map(ascii, models))}; --model NAME says how the "
                        "file names it")  # fmt: skip
    judges = sorted({reply.judge for reply in replies})
    if args.judge is not None and args.judge not in judges:
        raise unknown("judge in the file", args.judge, judges)
    if args.judge is None and len(judges) > 1:
        raise UserError(f"--judge: not given, and {args.file} has replies of {_few(judges)}; name one")
    return [reply for reply in replies if reply.judge == (args.judge or judges[0])]


def told(found: JudgementImport) -> str:
    """How many questions have a reply, and those that have none, in one line."""
    lists = {
        "without a reply": found.missing,
        "about other answers": found.other_requests,
        "with different replies": found.several,
        "without a reply where they were judged": found.failed,
        "unknown to the benchmark": found.unknown,
    }
    parts = [f"{len(names)} {what} ({_few(names)})" for what, names in lists.items() if names]
    if found.unchecked:
        parts.append(f"{found.unchecked} taken unchecked, since their requests are not recorded")
    return ", ".join([f"{part_of(found.num_replies, len(found.judgements), 'question')} with a reply", *parts])


def _differing(found: JudgementImport) -> str:
    if not found.differing:
        return "read here as the file says"
    return f"{counted(len(found.differing), 'reply', 'are')} read otherwise than the file says: {_few(found.differing)}"


def _few(names: Sequence[str]) -> str:
    from fedllm_bench.evaluation.answering.importing import few

    return few(names, 100)
