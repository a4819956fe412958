"""What the raw rows of all chat upstreams share: how a row says its language, and what a probe of it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from fedllm_bench.mini.lexicon import lexicon

# Chat data name languages as their detectors do, Aya by the standard's longer names.
DETECTED = {"arb": "Arabic", "zho": "Chinese"}
FLAGGED_SHARE = 0.03  # of the training rows, repeated as rows that moderation or redaction marked
FIRST_SECOND, SECONDS_BETWEEN = 1_680_000_000, 977  # rows need a time; nothing depends on it


class RawRow(NamedTuple):
    """A row in upstream columns, the upstream split it stands in, and for a held-out row what the world knows."""

    split: Literal["train", "test"]
    columns: dict[str, Any]
    probe: dict[str, Any] | None = None


def detected_language(language: int) -> str:
    """The English name of a language as Arena and WildChat write it."""
    known = lexicon().languages[language]
    return DETECTED.get(known.code, known.name)


def probe(client: str, turns: Sequence[str], task: str, holder: str, choices: Sequence[str]) -> dict[str, Any]:
    """What metrics may know of a conversation, whose last turn is the completion."""
    prompt, completion = "\n".join(turns[:-1]), turns[-1]
    return {
        "client": client,
        "prompt": prompt,
        "completion": completion,
        "task": task,
        "holder": holder,
        "choices": list(choices),
    }


def messages(turns: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": content} for place, content in enumerate(turns)]
