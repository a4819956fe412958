"""Which judgements are replies about the answers that are here: answers may have changed after they were judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.evaluation.judges.questions import Asker, Slot, asked_of_pairs, request_hash
from fedllm_bench.evaluation.judging.grading import STALE, slot_of
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt


@pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="ignore"))
class RequestTerms:
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
    is_scored: bool = False,
) -> Checked:
    """The judgements, without the replies to requests that are not those of these answers: answers may have changed.

    `judge_file` is the judge's judge.json; `others`: they are of pairs with these answers, which got scores where
    `is_scored`. Raises a :class:`UserError` for a judge.json that names no model.
    """
    if not judgements or not judge_file.is_file():
        return Checked(list(judgements))
    judge = _judge(judge_file)
    repeats = 1 + max(judgement.repeat for judgement in judgements)
    try:
        if others is None:
            asked = Asker.of(benchmark, paired=False).single(prompts, answers, repeats)
        else:
            asked = asked_of_pairs(benchmark, is_scored=is_scored)(prompts, answers, others, repeats)
        right = {one.slot: request_hash(judge.model, judge.options, one.messages, one.slot.repeat) for one in asked}
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


def _current(judgement: Judgement, right: Mapping[Slot, str]) -> Judgement:
    is_right = right.get(slot_of(judgement)) == judgement.request_hash
    return judgement if is_right or judgement.reply is None else replace(judgement, reply=None, reason=STALE)


def _judge(path: Path) -> RequestTerms:
    try:
        return TypeAdapter(RequestTerms).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} names no judge ({first_line(error)}); remove {path.parent} and judge again") from error
