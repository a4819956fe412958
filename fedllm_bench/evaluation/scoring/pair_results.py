"""Win rates of judged pairs, with their intervals, and how often the order of the answers decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.evaluation.judging.pair_files import JudgedPairs
from fedllm_bench.evaluation.judging.pairing import pair_scores_of
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark
from fedllm_bench.evaluation.scoring.estimates import ScoreRules, side_estimate
from fedllm_bench.evaluation.scoring.evaluation_json import PairResult
from fedllm_bench.evaluation.scoring.views import MEAN_OVER_QUESTIONS, per_question
from fedllm_bench.scores.score import Score


@dataclass(frozen=True, kw_only=True)
class PairTally:
    """Pairs with a verdict in both orders; a tie is also where the two orders differ."""

    wins: int
    ties: int
    losses: int
    consistent: int

    @property
    def consistency(self) -> float | None:
        judged = self.wins + self.ties + self.losses
        return self.consistent / judged if judged else None


def pair_results(materials: Mapping[str, AnsweredBenchmark], *, min_coverage: float) -> tuple[PairResult, ...]:
    rules = ScoreRules(low=0, high=1, min_coverage=min_coverage)
    return tuple(
        _result(benchmark, pairs, pair_scores_of(material.prompts, pairs.judgements), rules)
        for benchmark, material in materials.items()
        for pairs in material.pairs
    )


def tally(scores: Sequence[Score]) -> PairTally:
    """From the evidence of :func:`pairing.pair_scores_of`: the winner in both orders of each repeat."""
    pairs = [tuple(pair) for score in scores for pair in score.evidence.get("winners", ())]
    counts = Counter(pairs)
    wins, losses = counts["A", "A"], counts["B", "B"]
    return PairTally(
        wins=wins,
        ties=len(pairs) - wins - losses,
        losses=losses,
        consistent=sum(one == other for one, other in pairs),
    )


def _result(benchmark: str, pairs: JudgedPairs, scores: Sequence[Score], rules: ScoreRules) -> PairResult:
    counted, names = tally(scores), pairs.names
    return PairResult(
        judge=pairs.judge,
        benchmark=benchmark,
        side=names.side,
        other_run=names.other_run,
        other_side=pairs.here or names.other_side,
        other_answers=names.digest,
        is_checked=not pairs.note,
        win_rate=side_estimate(per_question(scores), MEAN_OVER_QUESTIONS, rules),
        estimator=MEAN_OVER_QUESTIONS.description,
        wins=counted.wins,
        ties=counted.ties,
        losses=counted.losses,
        consistent=counted.consistent,
        consistency=counted.consistency,
    )
