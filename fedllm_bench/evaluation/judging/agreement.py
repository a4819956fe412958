"""How often two kinds of judges find the same winner, as MT-Bench's paper counts it.

Zheng et al., 2023 (arXiv:2306.05685), section 4.2 and Table 5: for each turn, every pair of votes by different
judges on the same answers. Setup 1 keeps ties, and two ties agree; setup 2 drops a pair of votes with a tie.
The agreement is the share of pairs that are equal, all pairs with equal weight. What varies for the interval is
a question with all its pairs, because votes on one question are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from typing import Any, Literal

from fedllm_bench.evaluation.judging.votes import JudgeVote, by_match
from fedllm_bench.scores.estimators import MEAN_OVER_TOKENS
from fedllm_bench.scores.score import SCALES, Score
from fedllm_bench.scores.summaries import Summary, per_cluster, summarise

Setup = Literal["S1", "S2"]
SETUPS: dict[Setup, str] = {"S1": "with ties", "S2": "without ties"}
BY_CHANCE: dict[Setup, float] = {"S1": 1 / 3, "S2": 1 / 2}  # as the paper gives it
TURNS = (1, 2)
EXPERTS = "experts with each other"
GPT4 = "experts with GPT-4"
MIN_COVERAGE = 0.9  # with more of the pairs without a verdict, what is left is another sample
SHARE = replace(MEAN_OVER_TOKENS, description="share of all pairs of votes")

# (who, turn, setup) -> the paper's share, and the number of pairs of votes it is of
PUBLISHED: dict[tuple[str, int, Setup], tuple[float, int]] = {
    (GPT4, 1, "S1"): (0.66, 1343),
    (GPT4, 1, "S2"): (0.85, 859),
    (EXPERTS, 1, "S1"): (0.63, 721),
    (EXPERTS, 1, "S2"): (0.81, 479),
    (GPT4, 2, "S1"): (0.66, 1325),
    (GPT4, 2, "S2"): (0.85, 864),
    (EXPERTS, 2, "S1"): (0.67, 707),
    (EXPERTS, 2, "S2"): (0.82, 474),
}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A row of the table. `share.n_scored` counts pairs of votes; those with a judge who gave no verdict are unscored.

    `share.mean` is None where no pair is left, or where coverage is below 90%.
    """

    who: str
    turn: int
    setup: Setup
    share: Summary
    published: tuple[float, int] | None

    @property
    def coverage(self) -> float | None:
        return coverage(self.share)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "by_chance": BY_CHANCE[self.setup], "coverage": self.coverage}


VotePair = tuple[JudgeVote, JudgeVote]


def pairs_between(votes: Iterable[JudgeVote], others: Iterable[JudgeVote]) -> list[VotePair]:
    """Each vote with each of `others` on the same match."""
    found = by_match(others)
    return [pair for match, own in by_match(votes).items() for pair in product(own, found.get(match, []))]


def pairs_among(votes: Iterable[JudgeVote]) -> list[VotePair]:
    """Every two votes of different judges on the same match."""
    pairs = (pair for own in by_match(votes).values() for pair in combinations(own, 2))
    return [(one, other) for one, other in pairs if one.judge != other.judge]


def agreements(who: str, pairs: Sequence[VotePair], *, turns: Sequence[int] = TURNS) -> list[Agreement]:
    """One row for each turn and setup."""
    return [_agreement(who, pairs, turn, setup) for turn, setup in product(turns, SETUPS)]


def _agreement(who: str, pairs: Sequence[VotePair], turn: int, setup: Setup) -> Agreement:
    kept = [(one, other) for one, other in pairs if one.match.turn == turn]
    if setup == "S2":
        kept = [(one, other) for one, other in kept if "tie" not in (one.winner, other.winner)]
    share = covered(share_of([_score(one, other) for one, other in kept]))
    return Agreement(who=who, turn=turn, setup=setup, share=share, published=PUBLISHED.get((who, turn, setup)))


def _score(one: JudgeVote, other: JudgeVote) -> Score:
    name = f"{one.match} {one.judge} {other.judge}"
    missing = one.reason or other.reason if None in (one.winner, other.winner) else ""
    equal = None if missing else float(one.winner == other.winner)
    return Score(name, equal, missing, cluster=one.match.question)


def share_of(scores: Iterable[Score]) -> Summary:
    """The mean of all items, each 0 or 1, with its interval over questions."""
    summary = summarise(per_cluster(scores), estimator=SHARE, scale=SCALES["share"])
    return replace(summary, unit_of_resampling="question")


def coverage(summary: Summary) -> float | None:
    """The share of items that have a value; None where there are no items."""
    total = summary.n_scored + summary.n_unscored
    return summary.n_scored / total if total else None


def covered(summary: Summary) -> Summary:
    """`summary`, without its numbers where too many items have no value."""
    share = coverage(summary)
    if share is None or share >= MIN_COVERAGE:
        return summary
    return replace(summary, mean=None, ci_low=None, ci_high=None, interval="none")
