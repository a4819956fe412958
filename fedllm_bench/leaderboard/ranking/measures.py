"""The scores of a submission in as few numbers as its standing needs: a mean for each client or question, by seed.

Two rows are paired on their items, so the items are named: `items` is a hash of every item with its cluster, its weight
and whether it is scored. Rows with equal hashes can be compared by the means of their clusters alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.evaluation.scoring.views import MEAN_OVER_BYTES, MEAN_OVER_LANGUAGES, MEAN_OVER_QUESTIONS
from fedllm_bench.leaderboard.submission.recompute import RecomputedMetric, SeedScores
from fedllm_bench.scores.estimators import (
    MEAN_OVER_CLIENTS,
    MEAN_OVER_TOKENS,
    PERPLEXITY,
    Estimator,
    worst_tenth,
)
from fedllm_bench.scores.intervals import Scale
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import ClusterMean, per_cluster

Clusters = Mapping[str, ClusterMean]
ESTIMATORS: dict[tuple[str, bool], Estimator] = {
    (estimator.description, higher): estimator
    for higher in (True, False)
    for estimator in (
        *(MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, PERPLEXITY),
        *(MEAN_OVER_QUESTIONS, MEAN_OVER_LANGUAGES, MEAN_OVER_BYTES),
        worst_tenth(higher_is_better=higher),
    )
}


@dataclass(frozen=True, kw_only=True)
class SeedSide:
    """One seed's trained model under one metric. `is_whole`: no item is unscored."""

    clusters: Clusters
    items: str
    is_whole: bool


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric of a submission. `estimator` is the description of one in ESTIMATORS, `unit_of_n` what varies.

    `scale`: the lowest and the highest possible score, where known. With `whole_only` a mean over fewer than all items
    is none.
    """

    name: str
    version: str
    unit: str
    higher_is_better: bool
    estimator: str
    description: str
    judge: str
    unit_of_n: str
    whole_only: bool
    scale: Scale | None = None
    seeds: Mapping[int, SeedSide]

    @property
    def how(self) -> Estimator:
        return ESTIMATORS[self.estimator, self.higher_is_better]


def measures_of(seeds: Sequence[SeedScores], wanted: Collection[str]) -> dict[str, Measure]:
    """Metric -> its measure, of the metrics that every seed has; `wanted` names them without their judge."""
    names = [name for name in (seeds[0].metrics if seeds else ()) if name.partition("@")[0] in wanted]
    whole = [name for name in names if all(name in one.metrics for one in seeds)]
    return {name: _measure({one.seed: one.metrics[name] for one in seeds}) for name in whole}


def _measure(by_seed: Mapping[int, RecomputedMetric]) -> Measure:
    first = next(iter(by_seed.values()))
    return Measure(
        name=first.name,
        version=first.version,
        unit=first.unit,
        higher_is_better=first.higher_is_better,
        estimator=first.estimator.description,
        description=first.description,
        judge=first.judge,
        unit_of_n="question" if first.is_whole_only else "client",
        whole_only=first.is_whole_only,
        scale=first.scale,
        seeds={seed: side_of(one.after) for seed, one in sorted(by_seed.items())},
    )


def side_of(scores: Sequence[Score]) -> SeedSide:
    return SeedSide(
        clusters=per_cluster(scores),
        items=fingerprint(scores),
        is_whole=all(score.is_scored for score in scores),
    )


def fingerprint(scores: Iterable[Score]) -> str:
    """Equal for equal items, in whatever order they come."""
    lines = sorted(f"{s.cluster!r} {s.item_id!r} {s.weight!r} {s.is_scored}" for s in scores)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
