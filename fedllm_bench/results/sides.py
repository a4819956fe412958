"""The sides of a metric by client: what every number of its entry in results.json is made of, grouped once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import ClusterMean, paired_clusters, per_cluster

Clusters = Mapping[str, ClusterMean]


@dataclass(frozen=True, kw_only=True)
class ScoredSides:
    """`to_before` and `to_local` are pairs (after, other side) over the items that are scored on both."""

    before: Clusters
    after: Clusters
    to_before: tuple[Clusters, Clusters]
    local: Clusters | None = None
    to_local: tuple[Clusters, Clusters] | None = None


def sides_of(before: Sequence[Score], after: Sequence[Score], local: Sequence[Score] | None = None) -> ScoredSides:
    return ScoredSides(
        before=per_cluster(before),
        after=per_cluster(after),
        to_before=paired_clusters(after, before),
        local=None if local is None else per_cluster(local),
        to_local=None if local is None else paired_clusters(after, local),
    )
