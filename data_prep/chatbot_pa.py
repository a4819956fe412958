"""Chatbot-PA: each client is one voter of Chatbot Arena with pairs of a preferred and a rejected answer.

The prompt is the preferred conversation up to its last answer: after the first turn the two conversations have
different histories, and an answer is judged in one of them. Both must ask the same.
"""

from __future__ import annotations

from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Flag, Recipe
from fedllm_bench.data.build.sample import Sample

from .arena import CHECKS, FLAGS, LICENCE, READ, UPSTREAM, sample_of, vote_of
from .conversations import EQUAL

ASKED = Flag("prompt", "the two conversations do not ask the same")
DECLARATION = Declaration(
    dataset="chatbot_pa",
    upstream=UPSTREAM,
    licence=LICENCE,
    version="1",
    task="preference",
    checks=(*CHECKS, ASKED, EQUAL),
    flags=FLAGS,
    recipe=Recipe(
        # Never published, and lower than that of chatbot_it: 747 clients with 13 rows on average. 5 leaves the cut
        # to the published number of clients, and a row to hold out for each of them.
        min_samples=5,
        max_clients=747,
        heldout=0.1,
        unseen_clients=10,
        drop_flagged=("moderation", "toxicity"),
    ),
)


def preference_of(record: RawRecord) -> Sample:
    vote = vote_of(record)
    answers = tuple(turns[-1][1] for turns in (vote.chosen, vote.rejected) if turns)
    equal = len({answer.strip() for answer in answers}) < 2
    failed = {ASKED.name: _asked(vote.chosen) != _asked(vote.rejected), EQUAL.name: equal}
    return sample_of(vote, answers, vote.flags.with_failed(failed))


def _asked(turns: tuple[tuple[str, str], ...]) -> list[str]:
    return [content for role, content in turns if role == "user"]


build = Builder(DECLARATION, READ, preference_of)
