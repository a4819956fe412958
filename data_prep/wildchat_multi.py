"""WildChat, multi-turn: each client is one hashed IP address with whole conversations of two or more questions.

Every assistant turn is trained on; the chat templates see to it that nothing else is.
"""

from __future__ import annotations

from dataclasses import replace

from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Flag
from fedllm_bench.data.build.sample import Sample

from .conversations import MALFORMED, alternates, turns_of
from .wildchat import DECLARATION as SINGLE
from .wildchat import READ, sample_of

MIN_USER_TURNS = 2
DECLARATION = replace(
    SINGLE,
    dataset="wildchat_multi",
    checks=(MALFORMED, Flag("turns", f"fewer than {MIN_USER_TURNS} user turns")),
    # 50 clients with 15,406 conversations are published, no threshold: those with most rows, if they have ten.
    recipe=replace(SINGLE.recipe, min_samples=10, max_clients=50),
)


def conversation_of(record: RawRecord) -> Sample:
    turns = turns_of(record, "conversation")
    failed = {"conversation": not alternates(turns), "turns": len(turns) < 2 * MIN_USER_TURNS}
    return sample_of(record, turns, failed)


build = Builder(DECLARATION, READ, conversation_of)
