"""From scores of questions to estimates with intervals; a mean over too few of the questions is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedllm_bench.evaluation.scoring.evaluation_json import Change, SideEstimate
from fedllm_bench.evaluation.scoring.views import MEAN_OVER_LANGUAGES, weighted
from fedllm_bench.scores.estimators import Estimator
from fedllm_bench.scores.intervals import Scale
from fedllm_bench.scores.power import smallest
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import paired_difference, per_cluster, summarise

MOST_REASONS = 10  # of why questions are unscored; a judge may word each differently
LONGEST_REASON = 200  # characters


@dataclass(frozen=True, kw_only=True)
class ScoreRules:
    """What holds for one metric: the range of a score, and the share of questions that must be scored.

    `high` is None where a score has no upper end. `is_together`: a question's value hangs on the other answers too, as
    in metrics of pairs. There are no bounds in both cases.
    """

    low: float
    high: float | None
    min_coverage: float
    is_together: bool = False

    @property
    def scale(self) -> Scale | None:
        return None if self.high is None else (self.low, self.high)


def side_estimate(scores: Sequence[Score], estimator: Estimator, rules: ScoreRules) -> SideEstimate:
    """The estimate of one side, from one score for each question."""
    scored = _weighted(scores, estimator)
    found = summarise(per_cluster(scored), estimator=estimator, scale=rules.scale)
    refused = _refused(scored, rules.min_coverage)
    return SideEstimate(
        mean=None if refused else found.mean,
        ci_low=None if refused else found.ci_low,
        ci_high=None if refused else found.ci_high,
        interval="none" if refused else found.interval,
        no_interval="" if refused else found.no_interval,
        n_scored=found.n_scored,
        n_unscored=found.n_unscored,
        coverage=_coverage(scored),
        unscored=reasons(scored),
        refused=refused,
        bounds=_bounds(scores, estimator, rules),
    )


def change(side: Sequence[Score], base: Sequence[Score], estimator: Estimator, rules: ScoreRules) -> Change:
    """side - base over the questions that both have scored, of all that either was asked."""
    ours, theirs = _pairs(side, base)
    a, b = (_weighted(scores, estimator) for scores in (ours, theirs))
    found = paired_difference(per_cluster(a), per_cluster(b), estimator=estimator, scale=rules.scale)
    refused = _refused(a, rules.min_coverage)
    return Change(
        mean=None if refused else found.mean,
        ci_low=None if refused else found.ci_low,
        ci_high=None if refused else found.ci_high,
        interval="none" if refused else found.interval,
        no_interval="" if refused else found.no_interval,
        n_scored=found.n_scored,
        n_unscored=found.n_unscored,
        coverage=_coverage(a),
        unscored=reasons(a),
        refused=refused,
        significant=None if refused else found.excludes_zero,
        detectable=None if refused else smallest(found.n, found.sd),
    )


def reasons(scores: Iterable[Score]) -> dict[str, int]:
    """Why questions are unscored, the most frequent first; what is rare is counted together."""
    counts = Counter(score.reason[:LONGEST_REASON] for score in scores if not score.is_scored)
    shown = counts.most_common(MOST_REASONS)
    rest = counts.total() - sum(count for _, count in shown)
    return dict(shown) | ({"other reasons": rest} if rest else {})


def _pairs(side: Sequence[Score], base: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """Both sides over the same questions; one that is unscored on either side is so on both, with the reason."""
    a, b = ({score.cluster: score for score in scores} for scores in (side, base))
    ours, theirs = [], []
    for question in dict.fromkeys([*a, *b]):
        x, y = a.get(question), b.get(question)
        if x is not None and y is not None and x.is_scored and y.is_scored:
            ours.append(x)
            theirs.append(y)
        else:
            hole = next((s for s in (x, y) if s is not None and not s.is_scored), None)
            reason = hole.reason if hole else "asked on one side only"
            ours.append(Score(question, None, reason, cluster=question))
            theirs.append(ours[-1])
    return ours, theirs


def _weighted(scores: Sequence[Score], estimator: Estimator) -> list[Score]:
    return weighted(scores) if estimator is MEAN_OVER_LANGUAGES else list(scores)


def _coverage(scores: Sequence[Score]) -> str:
    return f"{sum(score.is_scored for score in scores)}/{len(scores)}"


def _refused(scores: Sequence[Score], min_coverage: float) -> str:
    """Why there is no mean; "" where there is one."""
    scored = sum(score.is_scored for score in scores)
    if not scored:
        first = next(iter(reasons(scores)), "nothing was asked")
        return f"unscored: {first}"
    if scored >= min_coverage * len(scores):
        return ""
    return f"coverage {scored}/{len(scores)} is below the limit of {100 * min_coverage:g}%"


def _bounds(scores: Sequence[Score], estimator: Estimator, rules: ScoreRules) -> tuple[float, float] | None:
    """The lowest and highest mean that the unscored questions leave possible; None where none or all are unscored."""
    scored = sum(score.is_scored for score in scores)
    if rules.is_together or rules.scale is None or scored in (0, len(scores)):
        return None
    low, high = (_mean(scores, estimator, missing=end) for end in rules.scale)
    return low, high


def _mean(scores: Sequence[Score], estimator: Estimator, *, missing: float) -> float:
    filled = [score if score.is_scored else replace(score, value=missing, reason="", weight=1.0) for score in scores]
    whole = _weighted(filled, estimator)
    values = np.asarray([score.value for score in whole], dtype=np.float64)
    weights = np.asarray([score.weight for score in whole], dtype=np.float64)
    return float(estimator.of(values, weights))
