"""Intervals of a row, and of its difference to another, for the two estimands of a board.

these *models*   the trained models of the row's seeds, on other clients or questions: a unit comes with its scores of
                 all seeds, and the estimate is the mean over seeds (scores/summaries.py)
this *method*    the method under other seeds: Student's t over the seeds' estimates
"""

from __future__ import annotations

from collections.abc import Sequence

from fedllm_bench.leaderboard.ranking.measures import Clusters, Measure
from fedllm_bench.scores.summaries import Summary, over_seeds


def over_units(measure: Measure, other: Measure | None = None) -> Summary:
    """The estimate of these models (minus that of the other's) with its interval over units.

    Both have the same units. `n_scored` and `n_unscored` count items of all seeds.
    """
    ours, theirs = ([side.clusters for side in one.seeds.values()] if one else [] for one in (measure, other))
    names = always_scored([*ours, *theirs])
    return over_seeds(
        [{name: clusters[name] for name in names} for clusters in ours],
        names,
        minus=theirs or None,
        estimator=measure.how,
        scale=measure.scale,
    )


def always_scored(all_clusters: Sequence[Clusters]) -> list[str]:
    """The units that have a mean everywhere, in the order of their names."""
    names = [{name for name, cluster in clusters.items() if cluster.mean is not None} for clusters in all_clusters]
    return sorted(set.intersection(*names)) if names else []
