"""Pairs that a judge scored, as the Vicuna blog's reviewer does: sums, their ratio and win rates, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedllm_bench.evaluation.judging import score_pairing
from fedllm_bench.evaluation.judging.pair_files import JudgedPairs
from fedllm_bench.evaluation.judging.score_pairing import HIGH, HIGHEST_RATIO, LOW, LOWEST_RATIO, RATIO, ScoredPair
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark
from fedllm_bench.evaluation.scoring.estimates import ScoreRules, side_estimate
from fedllm_bench.evaluation.scoring.evaluation_json import ScorePairResult, ScoreSum, SideEstimate
from fedllm_bench.evaluation.scoring.views import MEAN_OVER_QUESTIONS
from fedllm_bench.scores.score import Score


def score_pair_results(
    materials: Mapping[str, AnsweredBenchmark], *, min_coverage: float
) -> tuple[ScorePairResult, ...]:
    return tuple(
        _result(benchmark, judged, score_pairing.scored_pairs(material.prompts, judged.judgements), min_coverage)
        for benchmark, material in materials.items()
        for judged in material.score_pairs
    )


def _result(benchmark: str, judged: JudgedPairs, pairs: Sequence[ScoredPair], min_coverage: float) -> ScorePairResult:
    names, counts = judged.names, score_pairing.tally(pairs)
    ratio = ScoreRules(low=LOWEST_RATIO, high=HIGHEST_RATIO, min_coverage=min_coverage, is_together=True)
    mean, other_mean = (_mean(scores(pairs), LOW, HIGH, min_coverage) for scores in (
        score_pairing.own_scores, score_pairing.other_scores))  # fmt: skip
    return ScorePairResult(
        judge=judged.judge,
        benchmark=benchmark,
        side=names.side,
        other_run=names.other_run,
        other_side=judged.here or names.other_side,
        other_answers=names.digest,
        is_checked=not judged.note,
        mean=mean,
        other_mean=other_mean,
        total=_sum(mean),
        other_total=_sum(other_mean),
        ratio_percent=side_estimate(score_pairing.ratio_scores(pairs), RATIO, ratio),
        win_rate=_mean(score_pairing.wins(pairs), 0, 1, min_coverage),
        win_rate_first=_mean(score_pairing.wins_first(pairs), 0, 1, min_coverage),
        win_rate_second=_mean(score_pairing.wins_second(pairs), 0, 1, min_coverage),
        **counts,
    )


def _mean(scores: Sequence[Score], low: float, high: float, min_coverage: float) -> SideEstimate:
    return side_estimate(scores, MEAN_OVER_QUESTIONS, ScoreRules(low=low, high=high, min_coverage=min_coverage))


def _sum(mean: SideEstimate) -> ScoreSum:
    """Over the questions that are scored."""
    of = {"total": mean.mean, "ci_low": mean.ci_low, "ci_high": mean.ci_high}
    return ScoreSum(**{key: None if value is None else value * mean.n_scored for key, value in of.items()})
