"""Judging the answers of a folder: what is to be asked, asking it, and writing what was said beside the answers.

FOLDER/judgements/<judge>/judge.json                      the judge: model, options, price; no key
FOLDER/judgements/<judge>/<benchmark>/<side>.jsonl        a Judgement a line
FOLDER/judgements/<judge>/<benchmark>/<side>-vs-<other>.jsonl    pairs, in both orders
FOLDER/judgements/<judge>/<benchmark>.scores/<side>-vs-<other>.jsonl    pairs that get two scores, in both orders
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedllm_bench import __version__
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.common.progress import track
from fedllm_bench.evaluation.judges.asking import AskingJudge
from fedllm_bench.evaluation.judges.cost import Budget, prompt_tokens
from fedllm_bench.evaluation.judges.finishes import is_whole
from fedllm_bench.evaluation.judges.preset import IMPORTED, Preset
from fedllm_bench.evaluation.judges.questions import GRADINGS, SCORES, Asker, Question, Slot, asked_of_pairs
from fedllm_bench.evaluation.judges.rule import RuleJudge
from fedllm_bench.evaluation.judges.window import Submits, outcomes
from fedllm_bench.evaluation.records import (
    Answer,
    Judgement,
    Prompt,
    Reply,
    answers_file,
    judgements_file,
    prompts_file,
    read_records,
    write_records,
)

NOT_YET = "not asked yet"


class Judge(Submits, AbstractContextManager["Judge"], Protocol):
    """:class:`AskingJudge` or :class:`RuleJudge`."""

    preset: Preset
    budget: Budget

    def key(self, question: Question) -> str: ...

    def stored(self, question: Question) -> Reply | None: ...


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to judge; empty means all that is there. `other` and `other_side`: pairs with answers of that folder.

    `is_scored`: each answer of a pair is to get a score.
    """

    benchmarks: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()
    repeats: int = 1
    other: Path | None = None
    other_side: str = ""
    is_scored: bool = False


@dataclass(frozen=True, kw_only=True)
class JudgingFile:
    """The questions of one file of judgements. Making them again gives the same ones."""

    benchmark: str
    side: str
    path: Path
    prompts: Sequence[Prompt]
    answers: Mapping[str, Answer]
    questions: Callable[[], Iterator[Question]]
    is_paired: bool = False
    is_scored: bool = False


@dataclass
class Found:
    """What became of questions that have no stored reply: why, and replies that only this folder has."""

    reasons: dict[str, str] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)


def judge_of(preset: Preset, *, max_cost: float | None = None) -> Judge:
    if preset.kind == IMPORTED:
        raise UserError(f"the judge {preset.name}: its replies were imported, so nobody can ask it; give another judge")
    return RuleJudge(preset) if preset.kind == "rule" else AskingJudge(preset, max_cost=max_cost)


def answered_benchmarks(folder: Path) -> dict[str, list[str]]:
    """Benchmark -> the sides that have answers, of those that judges grade."""
    found = {}
    for benchmark in GRADINGS:
        names = {path.stem for path in (folder / "answers" / benchmark).glob("*.jsonl")} - {"prompts"}
        if names:
            found[benchmark] = sorted(names)
    return found


def works_of(folder: Path, preset: Preset, wanted: Wanted) -> list[JudgingFile]:
    """Raises a :class:`UserError` for a benchmark or side without answers, and for records that are none."""
    there = answered_benchmarks(folder)
    if not there:
        raise UserError(f"{folder} has no answers that judges grade; run `fedllm-bench answer {folder}` first")
    for name in wanted.benchmarks:
        if name not in there:
            raise unknown("answered benchmark", name, there)
    chosen = {name: sides for name, sides in there.items() if not wanted.benchmarks or name in wanted.benchmarks}
    for side in wanted.sides:
        if not any(side in sides for sides in chosen.values()):
            raise unknown("side with answers", side, {side for sides in chosen.values() for side in sides})
    if wanted.other is not None:
        chosen = {name: sides for name, sides in chosen.items() if GRADINGS[name].is_paired}
    return [
        _work(folder, preset, benchmark, side, wanted)
        for benchmark, sides in chosen.items()
        for side in sides
        if not wanted.sides or side in wanted.sides
    ]


def _work(folder: Path, preset: Preset, benchmark: str, side: str, wanted: Wanted) -> JudgingFile:
    prompts = read_records(prompts_file(folder, benchmark), Prompt)
    answers = read_answers(folder, benchmark, side)
    name = side
    if wanted.other is None:

        def questions() -> Iterator[Question]:  # MT-Bench's templates are fetched: not before all works are checked
            return Asker.of(benchmark).single(prompts, answers, wanted.repeats)
    else:
        other_side = wanted.other_side or side
        others = read_answers(wanted.other, benchmark, other_side)
        if not others:
            raise UserError(f"{wanted.other} has no answers of {other_side!r} to {benchmark}; answer there first, or "
                            "name the sides that both have with --sides")  # fmt: skip
        if answers_file(wanted.other, benchmark, other_side).samefile(answers_file(folder, benchmark, side)):
            raise UserError(f"{wanted.other} is the folder itself, and its answers of {other_side!r} would be compared "
                            "with themselves; give another folder or side")  # fmt: skip
        name = _pair_name(side, answers_file(wanted.other, benchmark, other_side), wanted.other)

        def questions() -> Iterator[Question]:
            return asked_of_pairs(benchmark, is_scored=wanted.is_scored)(prompts, answers, others, wanted.repeats)

    path = judgements_file(folder, preset.id, f"{benchmark}{SCORES}" if wanted.is_scored else benchmark, name)
    return JudgingFile(benchmark=benchmark, side=name, path=path, prompts=prompts, answers=answers, questions=questions,
                is_paired=wanted.other is not None, is_scored=wanted.is_scored)  # fmt: skip


def read_answers(folder: Path, benchmark: str, side: str) -> dict[str, Answer]:
    return {answer.item_id: answer for answer in read_records(answers_file(folder, benchmark, side), Answer)}


def _pair_name(side: str, other_answers: Path, other: Path) -> str:
    """Names the other answers by folder and content: they lie elsewhere and may change."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", other.resolve().name)[:30].strip(".-") or "run"
    content = hashlib.sha256(other_answers.read_bytes()).hexdigest()[:8]
    return f"{side[:30]}-vs-{slug}-{other_answers.stem[:20]}-{content}"


def to_ask(works: Iterable[JudgingFile], judge: Judge, found: Found) -> Iterator[Question]:
    """Each distinct question without a reply, once."""
    asked: set[str] = set()
    for work in works:
        for question in work.questions():
            if not question.messages:
                continue
            key = judge.key(question)
            if key not in asked and key not in found.replies and judge.stored(question) is None:
                asked.add(key)
                yield question


def own_replies(works: Iterable[JudgingFile], judge: Judge) -> Found:
    """Replies in the folder's judgements that are stored nowhere else, as in a folder from another machine.

    They count for this folder alone and never enter the store: whoever made the folder could have written them. One
    that was not said to its end is asked for again.
    """
    found = Found()
    for work in works:
        records = read_records(work.path, Judgement)
        said = {j.request_hash: j.reply for j in records if j.reply is not None and is_whole(j.reply.finish)}
        for question in work.questions() if said else ():
            key = judge.key(question) if question.messages else ""
            if key in said and judge.stored(question) is None:
                found.replies[key] = said[key]
    return found


def sizes(questions: Iterable[Question]) -> list[float]:
    """The estimated tokens of each prompt."""
    return [prompt_tokens(question.messages) for question in questions]


def judge_all(works: Sequence[JudgingFile], judge: Judge, found: Found, total: int) -> None:
    """Ask `total` questions and write the judgements, also of an asking that is interrupted or fails."""
    width = judge.preset.limits.concurrency
    label = f"judge {judge.preset.title}"
    is_worth_keeping = False
    try:
        asked = outcomes(judge, to_ask(works, judge, found), width)
        for outcome in track(asked, label, total, note=lambda: _cost(judge.budget)) if total else ():
            if outcome.reason:
                found.reasons[judge.key(outcome.question)] = outcome.reason
            is_worth_keeping |= not outcome.reason
            if outcome.reply is not None and not is_whole(outcome.reply.finish):  # stored nowhere, and evidence
                found.replies[judge.key(outcome.question)] = outcome.reply
        is_worth_keeping = True
    finally:
        if is_worth_keeping:  # not of a judge that nobody could reach, as without its key
            write_judgements(works, judge, found)


def write_judgements(works: Sequence[JudgingFile], judge: Judge, found: Found) -> None:
    for work in works:
        write_records(work.path, judgements_of(work, judge, found))
    write_judge(works, judge.preset)


def judgements_of(work: JudgingFile, judge: Judge, found: Found) -> Iterator[Judgement]:
    """One for each question, with its reply or the reason why there is none."""
    for question in work.questions():
        key = judge.key(question) if question.messages else ""
        reply = (judge.stored(question) or found.replies.get(key)) if key else None
        reason = question.reason or found.reasons.get(key, NOT_YET)
        slot = question.slot
        own = work.answers.get(slot.item_id) if work.is_paired else None
        yield Judgement(item_id=slot.item_id, turn=slot.turn, request_hash=key, repeat=slot.repeat, order=slot.order,
                        reply=reply, reason="" if reply else reason,
                        answer_hash=own.hash_to(slot.turn) if own else "")  # fmt: skip


def hashes_of(work: JudgingFile, judge: Judge) -> dict[Slot, str]:
    """What each judgement of these answers must be of; see `hashes` of :func:`grading.scores_of`."""
    return {question.slot: judge.key(question) if question.messages else "" for question in work.questions()}


def write_judge(works: Iterable[JudgingFile], preset: Preset) -> None:
    for folder in {work.path.parent.parent for work in works}:
        files.write_json(folder / "judge.json", {"id": preset.id, "suite": __version__, **preset.to_dict()})


def _cost(budget: Budget) -> str:
    return f"${budget.spent:.4f}" if budget.spent else ""
