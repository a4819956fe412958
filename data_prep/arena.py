"""Votes of Chatbot Arena: what its two data sets, chatbot_it and chatbot_pa, share.

Upstream: Zheng et al., 2023 (arXiv:2306.05685), lmsys/chatbot_arena_conversations. A client is a `judge`.
"""

from __future__ import annotations

from typing import NamedTuple

from fedllm_bench.data.build.bad_rows import bad_cell
from fedllm_bench.data.build.columns import USER_ID, Columns, Kind
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Flag
from fedllm_bench.data.build.sample import Message, Sample
from fedllm_bench.data.languages import language_of_name

from .conversations import MALFORMED, MODERATION, TOXICITY, Flags, alternates, flags_of, turns_of

UPSTREAM = "lmsys/chatbot_arena_conversations"
LICENCE = "CC-BY-4.0 (prompts), CC-BY-NC-4.0 (answers)"
FLAG_COLUMNS = {"moderation": "openai_moderation", "toxicity": "toxic_chat_tag"}
COLUMNS: dict[str, Kind] = {
    "winner": str,
    "judge": USER_ID,
    "conversation_a": object,
    "conversation_b": object,
    "language": str,
}
READ = Columns(COLUMNS, {"source": str}, FLAG_COLUMNS)
CHECKS = (Flag("vote", "a tie, both bad, or no vote"), MALFORMED)
FLAGS = (MODERATION, TOXICITY)
SIDES = ("model_a", "model_b")
NO_WINNER = ("", "tie", "tie (bothbad)", "bothbad", "both_bad")


class ArenaVote(NamedTuple):
    record: RawRecord
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    flags: Flags


def vote_of(record: RawRecord) -> ArenaVote:
    """The vote of a row; without a winner, the conversations stand as they came and the row is flagged."""
    winner = _winner(record)
    sides = turns_of(record, "conversation_a"), turns_of(record, "conversation_b")
    chosen, rejected = sides[::-1] if winner == "model_b" else sides
    failed = {"vote": winner not in SIDES, "conversation": not (alternates(chosen) and alternates(rejected))}
    flags = flags_of(record, FLAG_COLUMNS)
    return ArenaVote(record, chosen, rejected, flags.with_failed(failed))


def _winner(record: RawRecord) -> str:
    winner: str = record.values["winner"].strip().lower()
    if winner not in (*SIDES, *NO_WINNER):
        known = ", ".join((*SIDES, *NO_WINNER[1:]))
        detail = f": {record.values['winner'][:40]!r}; known are {known}, and blank for no vote"
        raise bad_cell(record.number, "column 'winner' holds a word that is not known", detail)
    return winner


def sample_of(vote: ArenaVote, answers: tuple[str, ...], flags: Flags) -> Sample:
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
        flags=flags.up,
        unsaid=flags.unsaid,
    )
