"""Intervals of a row, and of its difference to another, for the two estimands of a board.

these *models*   the trained models of the row's seeds, on other clients or questions: what is resampled is a unit
                 with its scores of all seeds, and the estimate is the mean over seeds
this *method*    the method under other seeds: Student's t over the seeds' estimates
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from fedllm_bench.metrics.stats import ClusterMean, Estimator, Resampling, Summary, summarise

from .measures import Clusters, Measure

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
LINEAR = ("mean over clients", "mean over questions")  # the mean over units of each unit's mean over seeds


def over_units(measure: Measure, other: Measure | None = None, *, resampling: Resampling) -> Summary:
    """The estimate of these models (minus that of the other's) with its interval over units.

    Both have the same units. `n_scored` and `n_unscored` count items of all seeds.
    """
    sides = [[one.clusters for one in each.seeds.values()] for each in (measure, other) if each is not None]
    names = _always_scored([clusters for side in sides for clusters in side])
    if measure.estimator in LINEAR:
        values = [{name: _mean_over_seeds(side, name) for name in names} for side in sides]
        shown = {name: values[0][name] - (values[1][name] if other else 0.0) for name in names}
        return summarise(_counted(sides[0], shown), resampling=resampling)
    places = {name: float(place) for place, name in enumerate(names)}
    estimator = _of_places(measure.how, [[_columns(clusters, names) for clusters in side] for side in sides])
    return summarise(_counted(sides[0], places), estimator=estimator, resampling=resampling)


def _of_places(estimator: Estimator, sides: Sequence[Sequence[tuple[Array, Array]]]) -> Estimator:
    """An estimator over units, of which what is drawn is the place in the columns of every seed."""

    def of(places: Array, _: Array) -> Array:
        chosen = places.astype(np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            shown = [
                np.mean([estimator.back(estimator.of(*(c[chosen] for c in columns))) for columns in side], axis=0)
                for side in sides
            ]
        return np.asarray(shown[0] - shown[1] if len(shown) > 1 else shown[0])

    return Estimator(description=estimator.description, of=of, smooth=estimator.smooth)


def _mean_over_seeds(side: Sequence[Clusters], name: str) -> float:
    return statistics.fmean(clusters[name].mean or 0.0 for clusters in side)


def _always_scored(all_clusters: Sequence[Clusters]) -> list[str]:
    names = [{name for name, cluster in clusters.items() if cluster.mean is not None} for clusters in all_clusters]
    return sorted(set.intersection(*names)) if names else []


def _columns(clusters: Clusters, names: Sequence[str]) -> tuple[Array, Array]:
    means = np.array([clusters[name].mean for name in names], dtype=np.float64)
    return means, np.array([clusters[name].weight for name in names], dtype=np.float64)


def _counted(side: Sequence[Clusters], values: Mapping[str, float]) -> dict[str, ClusterMean]:
    """The units with their values and the counts of their items over all seeds."""
    return {
        name: ClusterMean(
            mean=value,
            weight=1.0,
            n_scored=sum(clusters[name].n_scored for clusters in side),
            n_unscored=sum(clusters[name].n_unscored for clusters in side),
        )
        for name, value in values.items()
    }
