"""Where scoring meets the judges: their requests and grades, looked up when called, so that rules need none of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fedllm_bench.errors import UserError, first_line
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.metrics.base import Score

GRADING, QUESTIONS = "fedllm_bench.evaluation.grading", "fedllm_bench.evaluation.judges.questions"
STALE = "it was judged for another answer; judge again"
Place = tuple[str, int, int, str]  # item, turn, repeat, order


@pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore"))
class Asked:
    """What a request to a judge hangs on, beside its messages."""

    model: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """Judgements of requests that these answers make; `note` says why that could not be checked, where it could not."""

    judgements: list[Judgement]
    note: str = ""


def checked(
    judgements: Sequence[Judgement],
    judge_file: Path,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answer],
    *,
    benchmark: str,
    others: Mapping[str, Answer] | None = None,
) -> Checked:
    """The judgements, without the replies to requests that are not those of these answers: answers may have changed.

    `judge_file` is the judge's judge.json; `others`: they are of pairs with these answers. Raises a
    :class:`UserError` for a judge.json that names no model.
    """
    if not judgements or not judge_file.is_file():
        return Checked(list(judgements))
    judge = _judge(judge_file)
    questions: Any = importlib.import_module(QUESTIONS)
    repeats = 1 + max(judgement.repeat for judgement in judgements)
    try:
        asker = questions.Asker.of(benchmark, paired=others is not None)
        asked = (
            asker.single(prompts, answers, repeats)
            if others is None
            else asker.pairs(prompts, answers, others, repeats)
        )
        right = {
            _place(one.slot): questions.request_hash(judge.model, judge.options, one.messages, one.slot.repeat)
            for one in asked
        }
    except UserError as error:
        return Checked(list(judgements), str(error))
    return Checked([_current(judgement, right) for judgement in judgements])


def of_these(judgements: Sequence[Judgement], answers: Mapping[str, Answer]) -> list[Judgement]:
    """Judgements of pairs, without the replies to another answer of the side itself, where they say to which."""

    def is_stale(judgement: Judgement) -> bool:
        answer = answers.get(judgement.item_id)
        return judgement.answer_hash != ("" if answer is None else answer.hash_to(judgement.turn))

    return [replace(one, reply=None, reason=STALE) if one.answer_hash and one.reply and is_stale(one) else one
            for one in judgements]  # fmt: skip


def unchecked(what: str, why: str) -> str:
    return f"{what}: whether the judge's replies are to these answers could not be checked ({why})"


def _place(slot: Any) -> Place:
    """Of a judgement or of what is asked."""
    return slot.item_id, slot.turn, slot.repeat, slot.order


def _current(judgement: Judgement, right: Mapping[Place, str]) -> Judgement:
    is_right = right.get(_place(judgement)) == judgement.request_hash
    return judgement if is_right or judgement.reply is None else replace(judgement, reply=None, reason=STALE)


def _judge(path: Path) -> Asked:
    try:
        return TypeAdapter(Asked).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} names no judge ({first_line(error)}); remove {path.parent} and judge again") from error


def grades(
    prompts: Sequence[Prompt], answers: Mapping[str, Answer], judgements: Sequence[Judgement], *, benchmark: str
) -> list[Score]:
    """A score for each question and turn, the mean over repeats; every one unscored where nothing was judged."""
    if not any(judgement.order == "" for judgement in judgements):  # pairs are for comparing two sides
        return [
            Score(prompt.item_id, None, "no judge", cluster=prompt.item_id, group={"turn": str(turn)})
            for prompt in prompts
            for turn in range(1, len(prompt.turns) + 1)
        ]
    scores_of = importlib.import_module(GRADING).scores_of
    found: list[Score] = scores_of(prompts, list(answers.values()), judgements, benchmark=benchmark)
    return found
