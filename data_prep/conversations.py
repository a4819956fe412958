"""Turns of upstream conversations, and the flags of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedllm_bench.data.build.bad_rows import bad_cell
from fedllm_bench.data.build.cells import Unclear, is_flagged, opened, record_of
from fedllm_bench.data.build.columns import of_type, plain_value
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Flag
from fedllm_bench.data.build.sample import Message

ROLES = ("user", "assistant")
MODERATION = Flag("moderation", "flagged by OpenAI's moderation")
TOXICITY = Flag("toxicity", "tagged as toxic")
REDACTED = Flag("redacted", "personal data were replaced by placeholders, which a model would learn to write")
MALFORMED = Flag("conversation", "turns are not user, assistant, user, ... up to an assistant's")
EQUAL = Flag("equal", "both answers are the same")
KNOWN_FORMS = (
    "give true or false, 0 or 1, a record with 'flagged' or 'categories', a list of these or JSON text of these, or "
    "do without by --drop-flagged"
)
TEXT_PARTS = ("text", "input_text", "output_text")


class Flags(NamedTuple):
    """The names of the flags that are up, and of those of which the row says nothing."""

    up: frozenset[str]
    unsaid: frozenset[str]

    def with_failed(self, checks: Mapping[str, bool]) -> Flags:
        """With the checks of the row that failed, by name."""
        return self._replace(up=self.up | {name for name, failed in checks.items() if failed})


def flags_of(record: RawRecord, columns: Mapping[str, str]) -> Flags:
    """The flags of a row, whose columns are given by flag; a :class:`BadRow` for a cell whose meaning is not clear."""
    found = {name: _flag(record, column) for name, column in columns.items()}
    up = frozenset(name for name, is_up in found.items() if is_up)
    return Flags(up, frozenset(name for name, is_up in found.items() if is_up is None))


def _flag(record: RawRecord, column: str) -> bool | None:
    value = record.values.get(column)
    try:
        return is_flagged(value)
    except Unclear as error:
        is_word = not isinstance(value, dict | list) and not str(value).lstrip().startswith(("[", "{"))
        reason = f"is {type(value).__name__}, not bool" if is_word else "is in a form that is not known"
        raise bad_cell(record.number, f"column {column!r} {reason}", f": it holds {error}; {KNOWN_FORMS}") from error


def turns_of(record: RawRecord, column: str) -> tuple[Message, ...]:
    """The (role, content) of a conversation column; a null content is empty.

    It is a list of turns, {"role": [...], "content": [...]}, or JSON text of either. A content is text or a list of
    parts of type text, which are joined as they stand.
    """
    turns = _list_of_turns(record, column)
    return tuple(_turn(record, column, place, turn) for place, turn in enumerate(turns, start=1))


def _list_of_turns(record: RawRecord, column: str) -> list[Any]:
    value = record.values[column]
    try:
        found = opened(value)
    except Unclear as error:
        reason = f"column {column!r} is {type(value).__name__}, not list"
        raise bad_cell(record.number, reason, f": it holds {error}") from error
    found = _turns_of_lists(found) if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise of_type(record.number, column, value, "list")
    return found


def _turns_of_lists(record: dict[Any, Any]) -> list[dict[str, Any]] | None:
    """The turns of a record of equally long lists, which is what some tools make of a list of records."""
    lists = {key: plain_value(value) for key, value in record.items()}
    lengths = {len(value) if isinstance(value, list) else -1 for value in lists.values()}
    if len(lengths) != 1 or -1 in lengths:
        return None
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _turn(record: RawRecord, column: str, place: int, turn: Any) -> Message:
    turn = record_of(turn)
    if not isinstance(turn, dict):
        reason = f"column {column!r} holds {type(turn).__name__}, not turns with a role and a content"
        raise bad_cell(record.number, reason)
    if isinstance(turn.get("content"), list):
        turn = turn | {"content": _text_of_parts(record, column, place, turn["content"])}
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str | None) or "content" not in turn:
        raise _bad_turn(record, column, place, turn)
    return role, content or ""


def _bad_turn(record: RawRecord, column: str, place: int, turn: dict[Any, Any]) -> Exception:
    reason = f"column {column!r} has a turn without a role and a content as text"
    wrong = [key for key in ("role", "content") if key in turn and not isinstance(turn[key], str)]
    if {"role", "content"} <= turn.keys() and wrong:
        return bad_cell(record.number, reason, f"; the {wrong[0]} of turn {place} is {type(turn[wrong[0]]).__name__}")
    return bad_cell(record.number, reason, f"; turn {place} has {sorted(map(str, turn))[:8]}")


def _text_of_parts(record: RawRecord, column: str, place: int, parts: list[Any]) -> str:
    texts = [_text_of_part(record_of(part)) for part in parts]
    for part, text in zip(parts, texts, strict=True):
        if text is None:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            detail = f"; turn {place} has a part of type {str(kind)[:40]!r}"
            raise bad_cell(record.number, f"column {column!r} has content in parts that are not text", detail)
    return "".join(text for text in texts if text is not None)


def _text_of_part(part: Any) -> str | None:
    """None for what is not text, such as an image."""
    if not isinstance(part, dict) or (part.get("type") or "text") not in TEXT_PARTS:
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


def alternates(turns: tuple[Message, ...]) -> bool:
    """Whether user and assistant take turns, from the user's first to the assistant's last."""
    roles = [role for role, _ in turns]
    return bool(roles) and len(roles) % 2 == 0 and roles == list(ROLES) * (len(roles) // 2)
