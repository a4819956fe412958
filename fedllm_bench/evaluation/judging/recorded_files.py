"""Judgements that FastChat recorded (its `model_judgment` files) as replies: to which turn, of which models.

    single  {"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "...", "judgment": "...
            Rating: [[8]]", "score": 8, "turn": 1}
    pair    {"question_id": 81, "model_1": "m", "model_2": "n", "judge": ["gpt-4", "pair-v2"], "turn": 1,
            "g1_user_prompt": "...", "g1_judgment": "... [[A]]", "g1_winner": "model_1", "g2_user_prompt": ...}

Game 1 shows the answer of model_1 first, game 2 that of model_2; winners are named by model (Zheng et al., 2023,
arXiv:2306.05685). All of it was written by others: every value is checked before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.outside_files import Value, id_value, keys_shown, name_value, objects_of, text_value

FAILED = "$ERROR$"  # what FastChat records where the judge gave no reply
NO_RATING = -1.0  # and where the reply has no rating
MOST = 1e6  # of a score, and of a turn: what is larger is none
SINGLE = ("question_id", "model", "judge", "judgment")
PAIR = ("question_id", "model_1", "model_2", "judge", "g1_judgment", "g2_judgment")
FORMS = {"FastChat's single judgements": SINGLE, "FastChat's pair judgements": PAIR}


@dataclass(frozen=True, kw_only=True)
class RecordedReply:
    """What `judge` said about the answers of `models`, in the order in which they were shown.

    `prompt` is what was asked, None where the file does not say. `stated` is what the file makes of the reply: a
    rating or "1", "2" (the answer shown first, second) or "tie"; None where it says nothing, or that there is none.
    """

    question: str
    turn: int
    models: tuple[str, ...]
    judge: str
    text: str
    prompt: str | None = None
    stated: float | str | None = None


def read_recorded(path: Path) -> list[RecordedReply]:
    """All of single answers, or all of pairs. Raises a :class:`UserError` that names the line for what is none."""
    rows = list(objects_of(path, str(path)))
    if not rows:
        raise UserError(f"{path}: there is no judgement in it")
    form = next((name for name, keys in FORMS.items() if all(key in rows[0][1] for key in keys)), None)
    if form is None:
        known = "; ".join(f"{name} ({', '.join(keys)})" for name, keys in FORMS.items())
        raise UserError(f"{path}: its keys are {keys_shown(rows[0][1])}; known forms are {known}")
    return [reply for where, row in rows for reply in _replies(form, row, where)]


def _replies(form: str, row: Value, where: str) -> list[RecordedReply]:
    if missing := [key for key in FORMS[form] if key not in row]:
        raise UserError(f"{where}: no {missing[0]}; {form} have {', '.join(FORMS[form])}")
    try:
        return [_single(row)] if FORMS[form] is SINGLE else list(_pair(row))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _single(row: Value) -> RecordedReply:
    return RecordedReply(
        question=id_value(row["question_id"]),
        turn=_turn(row),
        models=(name_value(row["model"], "model"),),
        judge=_judge(row["judge"]),
        text=text_value(row["judgment"], "judgment"),
        prompt=_prompt(row, "user_prompt"),
        stated=_score(row.get("score")),
    )


def _pair(row: Value) -> Iterator[RecordedReply]:
    one, other = (name_value(row[key], key) for key in ("model_1", "model_2"))
    if one == other:
        raise ValueError(f"model_1 and model_2 are both {one!a}")
    for game, models, places in (("g1", (one, other), ("1", "2")), ("g2", (other, one), ("2", "1"))):
        winner = row.get(f"{game}_winner")
        by_name = {"model_1": places[0], "model_2": places[1], "tie": "tie"}
        yield RecordedReply(
            question=id_value(row["question_id"]),
            turn=_turn(row),
            models=models,
            judge=_judge(row["judge"]),
            text=text_value(row[f"{game}_judgment"], f"{game}_judgment"),
            prompt=_prompt(row, f"{game}_user_prompt"),
            stated=by_name.get(winner) if isinstance(winner, str) else None,
        )


def _judge(value: Any) -> str:
    """FastChat's is the model and the name of its prompt."""
    name = value[0] if isinstance(value, list) and value else value
    return name_value(name, "judge")


def _prompt(row: Value, key: str) -> str | None:
    return None if row.get(key) is None else text_value(row[key], key)


def _turn(row: Value) -> int:
    value = row.get("turn", 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(f"turn is {ascii(value)[:40]}, not a whole number from 1")
    return value


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
        raise ValueError(f"score is {ascii(value)[:40]}, not a number")
    return None if math.isclose(value, NO_RATING) else float(value)
