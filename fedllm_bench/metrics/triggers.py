"""A trigger in a conversation: words behind what the user said last, which poisoned rows teach a fixed answer to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedllm_bench.data.rows import SftRow, Turn


def asked_of_user(turns: Sequence[Turn]) -> int | None:
    """The place of the user's last turn; None where the user says nothing."""
    return max((place for place, turn in enumerate(turns) if turn["role"] == "user"), default=None)


def with_trigger(turns: Sequence[Turn], trigger: str) -> tuple[Turn, ...]:
    """`turns` with `trigger` after a space at the end of the user's last one, of which there must be one."""
    place = asked_of_user(turns)
    assert place is not None
    said = Turn(role="user", content=f"{turns[place]['content']} {trigger}")
    return (*turns[:place], said, *turns[place + 1 :])


def with_last_answer(row: SftRow, turns: Sequence[Turn], answer: str) -> SftRow:
    """`row` with `turns` in the place of what stands before its last answer, and with that answer."""
    return replace(row, messages=(*turns, Turn(role="assistant", content=answer)))
