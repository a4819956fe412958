"""Votes of Chatbot Arena: what its two data sets, chatbot_it and chatbot_pa, share.

Upstream: Zheng et al., 2023 (arXiv:2306.05685), lmsys/chatbot_arena_conversations. A client is a `judge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .conversations import MALFORMED, MODERATION, TOXICITY, alternates, is_flagged, turns_of
from .languages import language_of_name
from .readers import Raw, RawRecord, read_rows
from .recipe import Flag, Message, Sample

UPSTREAM = "lmsys/chatbot_arena_conversations"
LICENCE = "CC-BY-4.0 (prompts), CC-BY-NC-4.0 (answers)"
COLUMNS = {"winner": str, "judge": str, "conversation_a": list, "conversation_b": list, "language": str}
OPTIONAL = {"source": str, "openai_moderation": object, "toxic_chat_tag": object}
CHECKS = (Flag("vote", "a tie, both bad, or no vote"), MALFORMED)
FLAGS = (MODERATION, TOXICITY)


class Vote(NamedTuple):
    record: RawRecord
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    flags: frozenset[str]


def votes(raw: Raw) -> Iterator[Vote]:
    """Every raw row; without a winner, the conversations stand as they came and the row is flagged."""
    for record in read_rows(raw, COLUMNS, OPTIONAL):
        values = record.values
        sides = turns_of(record, "conversation_a"), turns_of(record, "conversation_b")
        chosen, rejected = sides[::-1] if values["winner"] == "model_b" else sides
        marks = {
            "vote": values["winner"] not in ("model_a", "model_b"),
            "conversation": not (alternates(chosen) and alternates(rejected)),
            "moderation": is_flagged(values.get("openai_moderation")),
            "toxicity": is_flagged(values.get("toxic_chat_tag")),
        }
        yield Vote(record, chosen, rejected, frozenset(name for name, is_up in marks.items() if is_up))


def sample_of(vote: Vote, answers: tuple[str, ...], flags: frozenset[str]) -> Sample:
    """The preferred conversation up to its last answer, and the answers that follow."""
    values = vote.record.values
    return Sample(
        client=values["judge"],
        turns=vote.chosen[:-1],
        answers=answers,
        language=language_of_name(values["language"]),
        source=values.get("source") or "arena",
        upstream_split=vote.record.split,
        file=vote.record.file,
        flags=flags,
    )
