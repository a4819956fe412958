"""WildChat, single-turn: each client is one hashed IP address with first questions and their answers.

Upstream: Zhao et al., 2024 (arXiv:2405.01470), allenai/WildChat-1M; versions before it have no `hashed_ip`.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.columns import USER_ID, Columns, Kind
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Flag, Recipe
from fedllm_bench.data.build.sample import Message, Sample
from fedllm_bench.data.languages import language_of_name

from .conversations import MODERATION, REDACTED, ROLES, TOXICITY, flags_of, turns_of

FLAG_COLUMNS = {"moderation": "openai_moderation", "toxicity": "toxic", "redacted": "redacted"}
COLUMNS: dict[str, Kind] = {"conversation": object, "language": str, "hashed_ip": USER_ID}
READ = Columns(COLUMNS, {"source": str}, FLAG_COLUMNS)
FLAGS = (MODERATION, TOXICITY, REDACTED)
DECLARATION = Declaration(
    dataset="wildchat",
    upstream="allenai/WildChat-1M",
    licence="ODC-BY",
    version="1",
    checks=(Flag("conversation", "does not begin with a user's turn and an assistant's"),),
    flags=FLAGS,
    recipe=Recipe(
        # The construction code was never published. "At least about 200" is what is remembered of the threshold;
        # the number of clients is published, and those with most rows are kept.
        min_samples=200,
        max_clients=100,
        heldout=0.1,  # as Aya: the original has no held-out rows
        unseen_clients=10,
        # Whether such rows were kept is not known; nobody should train on them unasked.
        drop_flagged=("moderation", "redacted", "toxicity"),
    ),
)


def first_exchange_of(record: RawRecord) -> Sample:
    turns = turns_of(record, "conversation")[:2]
    begins = tuple(role for role, _ in turns) == ROLES
    return sample_of(record, turns, {"conversation": not begins})


def sample_of(record: RawRecord, turns: tuple[Message, ...], failed: Mapping[str, bool]) -> Sample:
    """A conversation whose last turn is the answer, with the checks that it failed."""
    values = record.values
    flags = flags_of(record, FLAG_COLUMNS).with_failed(failed)
    return Sample(
        client=values["hashed_ip"],
        turns=turns[:-1],
        answers=tuple(content for _, content in turns[-1:]),
        language=language_of_name(values["language"]),
        source=values.get("source") or "wildchat",
        upstream_split=record.split,
        file=record.file,
        flags=flags.up,
        unsaid=flags.unsaid,
    )


build = Builder(DECLARATION, READ, first_exchange_of)
