"""WildChat, single-turn: each client is one hashed IP address with first questions and their answers.

Upstream: Zhao et al., 2024 (arXiv:2405.01470), allenai/WildChat-1M; versions before it have no `hashed_ip`.
"""

from __future__ import annotations

from collections.abc import Iterator

from .common import Builder
from .conversations import MODERATION, REDACTED, ROLES, TOXICITY, is_flagged, turns_of
from .languages import language_of_name
from .readers import Raw, RawRecord, read_rows
from .recipe import Declaration, Flag, Message, Recipe, Sample

COLUMNS = {"conversation": list, "language": str, "hashed_ip": str}
OPTIONAL = {"source": str, "openai_moderation": object, "toxic": bool, "redacted": bool}
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


def samples(raw: Raw) -> Iterator[Sample]:
    for record in read_rows(raw, COLUMNS, OPTIONAL):
        turns = turns_of(record, "conversation")[:2]
        begins = tuple(role for role, _ in turns) == ROLES
        yield sample_of(record, turns, set() if begins else {"conversation"})


def sample_of(record: RawRecord, turns: tuple[Message, ...], failed: set[str]) -> Sample:
    """A conversation whose last turn is the answer, with the checks that it failed."""
    values = record.values
    marks = {
        "moderation": is_flagged(values.get("openai_moderation")),
        "toxicity": values.get("toxic", False),
        "redacted": values.get("redacted", False),
    }
    return Sample(
        client=values["hashed_ip"],
        turns=turns[:-1],
        answers=tuple(content for _, content in turns[-1:]),
        language=language_of_name(values["language"]),
        source=values.get("source") or "wildchat",
        upstream_split=record.split,
        file=record.file,
        flags=frozenset(failed | {name for name, is_up in marks.items() if is_up}),
    )


build = Builder(DECLARATION, samples)
