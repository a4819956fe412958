"""What every metric of a folder of answers says of itself, whatever its scores are made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedllm_bench.scores.estimators import Estimator
from fedllm_bench.scores.intervals import Scale
from fedllm_bench.scores.score import MetricInfo, Score

SetValues = Callable[[Sequence[Score]], list[Score]]


@dataclass(frozen=True, kw_only=True)
class ScoredMetric:
    """A score for each question of `benchmark`, or for each of its turns, from `low` to `high` (None: it has no end).

    `by_language`: its mean is over languages of the mean in each, as Ref-GPT4 was published. `of_pairs`: a score is a
    mean over pairs of answers (views.pseudo_values). `of_set`: the metric is one of all questions together; this gives
    each question a value, of which the metric is the mean. `estimator`: None for the mean over questions.
    """

    info: MetricInfo
    benchmark: str
    low: float
    high: float | None
    needs_judge: bool = False
    by_language: bool = False
    of_pairs: bool = False
    of_set: SetValues | None = None
    estimator: Estimator | None = None

    @property
    def scale(self) -> Scale | None:
        return None if self.high is None else (float(self.low), float(self.high))
