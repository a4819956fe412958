"""Conversations of the mini world in the columns of WildChat: one to four exchanges, mostly about one subject.

The first and the last question of a held-out conversation are both held-out ones, so that the same raw rows serve
the single-turn data set, which takes first exchanges, and the multi-turn one, which takes whole conversations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from fedllm_bench.common.files import sha256_json
from fedllm_bench.mini.raw import (
    FIRST_SECOND,
    FLAGGED_SHARE,
    SECONDS_BETWEEN,
    RawRow,
    detected_language,
    messages,
    probe,
)
from fedllm_bench.mini.users import Answered, Population, make_rows, talkers
from fedllm_bench.mini.world import ME

MODEL = "mini-chat"
MOST_EXCHANGES = 4
Mark = Literal["", "toxic", "redacted"]


@dataclass(frozen=True)
class Chat:
    """What one user asked in one sitting."""

    exchanges: tuple[Answered, ...]
    mark: Mark = ""

    @property
    def user_id(self) -> str:
        return self.exchanges[0].user_id

    @property
    def turns(self) -> list[str]:
        return [text for row in self.exchanges for text in (row.item.prompt, row.item.completion)]


def make_chats(population: Population) -> list[Chat]:
    """A conversation for each row of the world that begins with it, and some that are marked."""
    rows = make_rows(population, talkers(population, states_style=True))
    by_sitting: dict[tuple[str, str], list[Answered]] = {}
    for row in rows:
        by_sitting.setdefault((row.user_id, row.split), []).append(row)
    chats = [chat for own in by_sitting.values() for chat in _chats_of(own)]
    train = [chat for chat in chats if chat.exchanges[0].split == "train"]
    return chats + _marked(train, np.random.default_rng([population.seed, 30]))


def _chats_of(rows: Sequence[Answered]) -> list[Chat]:
    """Neighbours in order of subject talk on; lengths go 4, 1, 2, 3, so that three in four have several turns.

    A question asked in a conversation of its own alone is thus also asked in the one before it.
    """
    ordered = sorted(rows, key=lambda row: row.item.fact)
    return [Chat(_talk(ordered, start, (start - 1) % MOST_EXCHANGES + 1)) for start in range(len(ordered))]


def _talk(rows: Sequence[Answered], start: int, length: int) -> tuple[Answered, ...]:
    """`length` neighbours; no question or fact comes twice, or the answer could be copied."""
    talk: list[Answered] = []
    for step in range(len(rows)):
        row = rows[(start + step) % len(rows)]
        if len(talk) < length and all(_differ(row, earlier) for earlier in talk):
            talk.append(row)
    return tuple(talk)


def _differ(row: Answered, other: Answered) -> bool:
    same_fact = row.item.fact == other.item.fact != (ME, ME)
    return not same_fact and row.item.prompt != other.item.prompt


def _marked(chats: Sequence[Chat], rng: np.random.Generator) -> list[Chat]:
    """Repeated conversations that the upstream marked: no fact is lost with them."""
    chosen = rng.permutation(len(chats))[: max(2, round(FLAGGED_SHARE * len(chats)))]
    return [Chat(chats[i].exchanges, ("toxic", "redacted")[place % 2]) for place, i in enumerate(chosen)]


def address(user_id: str) -> str:
    """The `hashed_ip` of a user."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def wildchat_row(number: int, chat: Chat) -> dict[str, Any]:
    """One row in the columns of allenai/WildChat-1M."""
    time = datetime.fromtimestamp(FIRST_SECOND + number * SECONDS_BETWEEN, UTC).isoformat()
    content = messages(chat.turns)
    return {
        "conversation_hash": sha256_json([number, content])[:32],
        "model": MODEL,
        "timestamp": time,
        "conversation": content,
        "turn": len(chat.exchanges),
        "language": detected_language(chat.exchanges[0].item.language),
        "openai_moderation": [{"flagged": chat.mark == "toxic"} for _ in content],
        "toxic": chat.mark == "toxic",
        "redacted": chat.mark == "redacted",
        "hashed_ip": address(chat.user_id),
        "source": f"mini:{chat.exchanges[0].item.task}",
    }


def wildchat_rows(population: Population) -> list[RawRow]:
    """All raw rows, with probes of the first exchanges."""
    return _rows(population, whole=False)


def wildchat_multi_rows(population: Population) -> list[RawRow]:
    """The same raw rows, with probes of the last exchanges."""
    return _rows(population, whole=True)


def _rows(population: Population, *, whole: bool) -> list[RawRow]:
    rows = []
    for number, chat in enumerate(make_chats(population)):
        exchanges = chat.exchanges if whole else chat.exchanges[:1]
        split = exchanges[0].split
        known = _probe(exchanges) if split == "test" and len(exchanges) > whole else None
        rows.append(RawRow(split, wildchat_row(number, chat), known))
    return rows


def _probe(exchanges: tuple[Answered, ...]) -> dict[str, Any]:
    last = exchanges[-1]
    item = last.item
    return probe(address(last.user_id), Chat(exchanges).turns, item.task, last.holder, item.choices)
