"""Votes on pairs of MT-Bench answers: of experts, and of GPT-4 as published. One order of the two models for all.

Zheng et al., 2023 (arXiv:2306.05685), section 4.1: six models answered 80 questions of two turns; experts saw the
answers of two of them and voted. GPT-4 judged each pair in both orders; a winner in one order only is a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.fetch.assets import fetch

HUMAN_LABELS = "mt_bench/human_labels.jsonl"
GPT4_LABELS = "mt_bench/gpt4_pair_labels.jsonl"
EXPERT = "expert_"  # the other humans are the authors
Winner = Literal["a", "b", "tie"]
OTHER: Mapping[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}


@dataclass(frozen=True, order=True)
class Match:
    """The answers of two models to one question, seen up to `turn` (from 1). `model_a` sorts before `model_b`."""

    question: str
    turn: int
    model_a: str
    model_b: str

    def __post_init__(self) -> None:
        if not self.model_a < self.model_b:
            raise ValueError(f"{self.model_a!r} and {self.model_b!r} are not two models in sorted order")


@dataclass(frozen=True)
class JudgeVote:
    """What one judge found. Without a `winner`, `reason` says why there is no verdict.

    `consistent` is False where a judge who saw both orders named another winner in each; the vote is then a tie.
    """

    match: Match
    judge: str
    winner: Winner | None
    consistent: bool = True
    reason: str = ""


def expert_votes() -> list[JudgeVote]:
    """Raises a :class:`UserError` where the asset cannot be fetched."""
    return [vote for vote in read_votes(fetch(HUMAN_LABELS)) if vote.judge.startswith(EXPERT)]


def gpt4_votes() -> list[JudgeVote]:
    """The published verdicts of GPT-4 on all 15 pairs of models."""
    return read_votes(fetch(GPT4_LABELS))


def read_votes(path: Path) -> list[JudgeVote]:
    try:
        return [_vote(row) for row in files.read_jsonl(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a line that is no vote ({type(error).__name__}: {error})") from error


def _vote(row: Mapping[str, Any]) -> JudgeVote:
    first, second = str(row["model_a"]), str(row["model_b"])
    said = str(row["winner"])
    winner = _winner(said)
    match = Match(str(row["question_id"]), int(row["turn"]), *sorted((first, second)))
    return JudgeVote(match, str(row["judge"]), winner if first < second else OTHER[winner], "inconsistent" not in said)


def _winner(said: str) -> Winner:
    if said == "model_a":
        return "a"
    if said == "model_b":
        return "b"
    if said.startswith("tie"):
        return "tie"
    raise ValueError(f"winner {said!r}")


def by_match(votes: Iterable[JudgeVote]) -> dict[Match, list[JudgeVote]]:
    found: dict[Match, list[JudgeVote]] = {}
    for vote in votes:
        found.setdefault(vote.match, []).append(vote)
    return found


def majority(votes: Sequence[JudgeVote]) -> Winner:
    """What most of them found; a tie where two verdicts have equally many."""
    counts = Counter(vote.winner for vote in votes if vote.winner is not None)
    ranked = counts.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return "tie"
    return ranked[0][0]
