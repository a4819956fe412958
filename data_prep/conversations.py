"""Turns of upstream conversations, and the marks that moderation left on them."""

from __future__ import annotations

from typing import Any

from fedllm_bench.errors import UserError

from .readers import RawRecord
from .recipe import Flag, Message

ROLES = ("user", "assistant")
MODERATION = Flag("moderation", "flagged by OpenAI's moderation")
TOXICITY = Flag("toxicity", "tagged as toxic")
REDACTED = Flag("redacted", "personal data were replaced by placeholders, which a model would learn to write")
MALFORMED = Flag("conversation", "turns are not user, assistant, user, ... up to an assistant's")


def turns_of(record: RawRecord, column: str) -> tuple[Message, ...]:
    """The (role, content) of a conversation column; a null content is empty."""
    return tuple(_turn(record, column, turn) for turn in record.values[column])


def _turn(record: RawRecord, column: str, turn: Any) -> Message:
    where = f"{record.file}, row {record.number}: column {column!r}"
    if not isinstance(turn, dict):
        raise UserError(f"{where} holds {type(turn).__name__}, not turns with a role and a content")
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str | None):
        raise UserError(f"{where} has a turn without a role and a content as text; it has {sorted(map(str, turn))}")
    return role, content or ""


def alternates(turns: tuple[Message, ...]) -> bool:
    """Whether user and assistant take turns, from the user's first to the assistant's last."""
    roles = [role for role, _ in turns]
    return bool(roles) and len(roles) % 2 == 0 and roles == list(ROLES) * (len(roles) // 2)


def is_flagged(value: Any) -> bool:
    """Whether any `flagged` within a moderation column is true: it is one for a row, a turn or a classifier."""
    if isinstance(value, dict):
        return value.get("flagged") is True or any(map(is_flagged, value.values()))
    return isinstance(value, list) and any(map(is_flagged, value))
