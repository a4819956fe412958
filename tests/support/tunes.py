"""Searches at a size that takes seconds: their command line."""

from __future__ import annotations

from pathlib import Path

from bench_runs import TINY, words

SPACE = "method.mu=log:1e-3..1 local.lr=log:1e-4..1e-1"
ONE_STEP = tuple(word for word in TINY if not word.startswith(("federation.rounds", "local.steps", "evaluation.local")))
ONE_STEP = (*ONE_STEP, "federation.rounds=1", "local.steps=1")


def tune_words(
    split: Path, out: Path, *more: str, space: str = SPACE, settings: tuple[str, ...] = ONE_STEP
) -> list[str]:
    """The command line of a tiny search of fedprox, without the name of the program."""
    return ["tune", "aya", "fedprox", "--space", space, *words("", split, out, settings=settings)[3:], *more]
