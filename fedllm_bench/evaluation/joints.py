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


@pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore"))
class Asked:
    """What a request to a judge hangs on, beside its messages."""

    model: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """Judgements of requests that these answers make; `note` says so where that could not be checked."""

    judgements: list[Judgement]
    note: str = ""


def checked(
    judgements: Sequence[Judgement],
    judge_file: Path,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answer],
    *,
    benchmark: str,
) -> Checked:
    """The judgements, without the replies to requests that are not those of these answers: answers may have changed.

    `judge_file` is the judge's judge.json. Raises a :class:`UserError` for one that names no model.
    """
    if not judgements or not judge_file.is_file():
        return Checked(list(judgements))
    judge = _judge(judge_file)
    questions: Any = importlib.import_module(QUESTIONS)
    try:
        asker = questions.Asker.of(benchmark)
    except UserError as error:
        note = f"{benchmark}: whether the judge's replies are to these answers could not be checked ({error})"
        return Checked(list(judgements), note)
    repeats = 1 + max(judgement.repeat for judgement in judgements)
    right = {
        (asked.slot.item_id, asked.slot.turn, asked.slot.repeat): questions.request_hash(
            judge.model, judge.options, asked.messages, asked.slot.repeat
        )
        for asked in asker.single(prompts, answers, repeats)
    }
    return Checked([_current(judgement, right) for judgement in judgements])


def _current(judgement: Judgement, right: Mapping[tuple[str, int, int], str]) -> Judgement:
    is_right = right.get((judgement.item_id, judgement.turn, judgement.repeat)) == judgement.request_hash
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
