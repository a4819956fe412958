"""Chatbot-IT: each client is one voter of Chatbot Arena with the conversations that they preferred.

One conversation a vote, with as many turns as it had; every assistant turn is trained on.
"""

from __future__ import annotations

from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.build.sample import Sample

from .arena import CHECKS, FLAGS, LICENCE, READ, UPSTREAM, sample_of, vote_of

DECLARATION = Declaration(
    dataset="chatbot_it",
    upstream=UPSTREAM,
    licence=LICENCE,
    version="1",
    checks=CHECKS,
    flags=FLAGS,
    recipe=Recipe(
        # The construction code was never published. "About 10" is what is remembered of the threshold; the number
        # of clients is published, and those with most rows are kept.
        min_samples=10,
        max_clients=237,
        heldout=0.1,  # as Aya: the original has no held-out rows
        unseen_clients=10,
        # Whether flagged rows were kept is not known; nobody should train on them unasked.
        drop_flagged=("moderation", "toxicity"),
    ),
)


def instruction_of(record: RawRecord) -> Sample:
    vote = vote_of(record)
    return sample_of(vote, tuple(content for _, content in vote.chosen[-1:]), vote.flags)


build = Builder(DECLARATION, READ, instruction_of)
