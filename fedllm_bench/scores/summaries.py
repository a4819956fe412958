"""From scores of items to a mean over clients with a 95% interval.

Items of one client are alike, so they are not independent: what varies is a client with all its items. An
estimator is a function of the clients' means and weights (metrics/estimators.py). Every summary and every paired
difference, of one trained model or of one for each seed, takes its interval from metrics/intervals.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedllm_bench.scores import intervals
from fedllm_bench.scores.estimators import (
    MEAN_OVER_CLIENTS,
    Estimator,
    freedom_of,
    refused,
    shown_values,
    values_of,
)
from fedllm_bench.scores.intervals import Array, IntervalLimits, Scale
from fedllm_bench.scores.score import Score, is_unseen

Interval = intervals.Kind


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An estimate over `n` clients with its 95% interval.

    `n_scored` and `n_unscored` count items (pairs of items in a paired difference). `mean` is None where no
    client has a score, the limits where `interval` is "none"; then `no_interval` says why. `sd` is the standard
    deviation of the clients' values, of which the estimate is the mean; None below two.
    """

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_scored: int
    n_unscored: int
    interval: Interval
    no_interval: str = ""
    sd: float | None = None
    unit_of_resampling: str = "client"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def excludes_zero(self) -> bool | None:
        """None where there is no interval."""
        if self.ci_low is None or self.ci_high is None:
            return None
        return self.ci_low > 0 or self.ci_high < 0


@dataclass(frozen=True, kw_only=True)
class ClusterMean:
    """The weighted mean of the scored items of one client; None where none is scored."""

    mean: float | None
    weight: float
    n_scored: int
    n_unscored: int


def per_cluster(scores: Iterable[Score]) -> dict[str, ClusterMean]:
    """Client -> weighted mean of its scores, in the order of client ids."""
    grouped: dict[str, list[Score]] = {}
    for score in scores:
        grouped.setdefault(score.cluster, []).append(score)
    return {cluster: _cluster_mean(grouped[cluster]) for cluster in sorted(grouped)}


def means_by_part(scores: Iterable[Score]) -> dict[str, dict[str, float | None]]:
    """{"heldout": client -> mean, "unseen": the same of users without training rows}, in the order of ids."""
    parts: dict[str, list[Score]] = {"heldout": [], "unseen": []}
    for score in scores:
        parts["unseen" if is_unseen(score) else "heldout"].append(score)
    return {part: {client: c.mean for client, c in per_cluster(of).items()} for part, of in parts.items()}


def _cluster_mean(scores: list[Score]) -> ClusterMean:
    # `is_scored`, spelt out: this is asked of every item for every view
    scored = [(s.value, s.weight) for s in scores if s.value is not None and s.weight > 0]
    weight = math.fsum(w for _, w in scored)
    mean = math.fsum(v * w for v, w in scored) / weight if scored else None
    return ClusterMean(mean=mean, weight=weight, n_scored=len(scored), n_unscored=len(scores) - len(scored))


def paired_clusters(a: Iterable[Score], b: Iterable[Score]) -> tuple[dict[str, ClusterMean], dict[str, ClusterMean]]:
    """Both sides over the same items: those scored on both, of the clients that occur on both.

    An item of such a client that lacks a score on either side counts as unscored on both; otherwise a model
    that fails on its hard items would look better for it.
    """
    items_a, items_b = _by_item(a), _by_item(b)
    shared = {cluster for cluster, _ in items_a} & {cluster for cluster, _ in items_b}
    keys = sorted(key for key in items_a.keys() | items_b.keys() if key[0] in shared)
    pairs = [(key, items_a.get(key), items_b.get(key)) for key in keys]
    whole = [(x, y) for _, x, y in pairs if x and y and x.is_scored and y.is_scored]
    holes = [Score(key[1], None, "one side of the pair is unscored", cluster=key[0]) for key, x, y in pairs
             if not (x and y and x.is_scored and y.is_scored)]  # fmt: skip
    return per_cluster([x for x, _ in whole] + holes), per_cluster([y for _, y in whole] + holes)


def _by_item(scores: Iterable[Score]) -> dict[tuple[str, str], Score]:
    items: dict[tuple[str, str], Score] = {}
    for score in scores:
        key = (score.cluster, score.item_id)
        if key in items:
            raise ValueError(f"two scores for item {score.item_id!r} of client {score.cluster!r}; give one")
        items[key] = score
    return items


def summarise(
    clusters: Mapping[str, ClusterMean], *, estimator: Estimator = MEAN_OVER_CLIENTS, scale: Scale | None = None
) -> Summary:
    """The estimate over clients and its 95% interval. `scale`: the lowest and highest possible score, where known."""
    names = [name for name in sorted(clusters) if clusters[name].mean is not None]
    return over_seeds([clusters], names, estimator=estimator, scale=scale)


def paired_difference(
    a: Mapping[str, ClusterMean],
    b: Mapping[str, ClusterMean],
    *,
    estimator: Estimator = MEAN_OVER_CLIENTS,
    scale: Scale | None = None,
) -> Summary:
    """a - b over the clients scored in both; a client comes with both its sides. `scale` is that of one side.

    Intervals as in :func:`summarise`. :func:`paired_clusters` gives the two sides over equal items.
    """
    shared = sorted(a.keys() & b.keys())
    names = [name for name in shared if a[name].mean is not None and b[name].mean is not None]
    ours, theirs = ({name: side[name] for name in shared} for side in (a, b))
    return over_seeds([ours], names, minus=[theirs], estimator=estimator, scale=scale)


def over_seeds(
    seeds: Sequence[Mapping[str, ClusterMean]],
    names: Sequence[str],
    *,
    minus: Sequence[Mapping[str, ClusterMean]] | None = None,
    estimator: Estimator = MEAN_OVER_CLIENTS,
    scale: Scale | None = None,
) -> Summary:
    """The mean over seeds of the estimate over the clients `names`, or of its difference to that of `minus`.

    All have a mean in each seed of each side. A client comes with its scores of all seeds; items are counted over all.
    """
    counted = [cluster for clusters in seeds for cluster in clusters.values()]
    if not names:
        return _summary(None, IntervalLimits(reason="no client has a score"), [], counted)
    with np.errstate(over="ignore", invalid="ignore"):  # a perplexity beyond the largest float is no number
        if minus is None:
            return _summary(*_one_side(seeds, names, estimator, scale), counted)
        return _summary(*_two_sides((seeds, minus), names, estimator, scale), counted)


Found = tuple[float | None, IntervalLimits, Array]  # the estimate, its interval, the clients' values


def _one_side(
    seeds: Sequence[Mapping[str, ClusterMean]], names: Sequence[str], estimator: Estimator, scale: Scale | None
) -> Found:
    columns = [columns_of(clusters, names) for clusters in seeds]
    values = np.mean([values_of(estimator, *each) for each in columns], axis=0)
    inner = float(np.mean([estimator.of(*each) for each in columns]))
    shown = float(np.mean([estimator.back(estimator.of(*each)) for each in columns]))
    if reason := refused(estimator, len(names)):
        return _finite(shown), IntervalLimits(reason=reason), values
    if limits := _of_share(seeds, names, estimator, scale):
        return _finite(shown), limits, values
    freedom = freedom_of(estimator, columns[0][1], of_difference=False)
    limits = intervals.of_mean(values - values.mean() + inner, freedom=freedom, scale=_at_ends(estimator, scale))
    return _finite(shown), _shown_limits(limits, estimator, inner, shown), values


def _at_ends(estimator: Estimator, scale: Scale | None) -> Scale | None:
    """Only the values of a mean lie on its scale."""
    return scale if estimator.is_mean else None


def _shown_limits(limits: IntervalLimits, estimator: Estimator, inner: float, shown: float) -> IntervalLimits:
    """Exponentiated, where the estimate is."""
    if limits.low is None or limits.high is None or estimator.back is np.asarray:
        return limits
    low, centre, high = (float(estimator.back(np.asarray(x))) for x in (limits.low, inner, limits.high))
    return IntervalLimits(low=shown + (low - centre), high=shown + (high - centre), kind=limits.kind)


def _of_share(
    seeds: Sequence[Mapping[str, ClusterMean]], names: Sequence[str], estimator: Estimator, scale: Scale | None
) -> IntervalLimits | None:
    """None where the items are not all 0 or 1, or the estimate is no mean of them."""
    if scale != (0.0, 1.0) or not estimator.is_mean or len(names) < 2:
        return None
    means = np.array([[clusters[name].mean for name in names] for clusters in seeds], dtype=np.float64)
    items = np.array([[clusters[name].n_scored for name in names] for clusters in seeds], dtype=np.float64)
    hits = means * items
    if np.any(np.abs(hits - np.round(hits)) > 1e-9 * np.maximum(1.0, items)):
        return None
    weights = columns_of(seeds[0], names)[1] if estimator.counts == "weights" else np.ones(len(names))
    return intervals.of_share(means.mean(axis=0), weights / weights.sum(), items.sum(axis=0))


def _two_sides(
    sides: tuple[Sequence[Mapping[str, ClusterMean]], Sequence[Mapping[str, ClusterMean]]],
    names: Sequence[str],
    estimator: Estimator,
    scale: Scale | None,
) -> Found:
    columns = [[columns_of(clusters, names) for clusters in seeds] for seeds in sides]
    shown = [float(np.mean([estimator.back(estimator.of(*each)) for each in side])) for side in columns]
    ours, theirs = (np.mean([shown_values(estimator, *each) for each in side], axis=0) for side in columns)
    estimate, values = shown[0] - shown[1], ours - theirs
    if reason := refused(estimator, len(names)):
        return _finite(estimate), IntervalLimits(reason=reason), values
    freedom = freedom_of(estimator, columns[0][0][1], of_difference=True)
    ends = _at_ends(estimator, of_differences(scale))
    return _finite(estimate), intervals.of_mean(values - values.mean() + estimate, freedom=freedom, scale=ends), values


def of_differences(scale: Scale | None) -> Scale | None:
    return None if scale is None else (scale[0] - scale[1], scale[1] - scale[0])


def columns_of(clusters: Mapping[str, ClusterMean], names: Sequence[str]) -> tuple[Array, Array]:
    """Means and weights of the clients, each of shape (N,)."""
    means = np.asarray([clusters[name].mean for name in names], dtype=np.float64)
    return means, np.asarray([clusters[name].weight for name in names], dtype=np.float64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _summary(
    mean: float | None, limits: IntervalLimits, values: Sequence[float] | Array, counted: Sequence[ClusterMean]
) -> Summary:
    whole = all(limit is not None and math.isfinite(limit) for limit in (mean, limits.low, limits.high))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(
        mean=mean,
        ci_low=limits.low if whole else None,
        ci_high=limits.high if whole else None,
        n=len(values),
        n_scored=sum(cluster.n_scored for cluster in counted),
        n_unscored=sum(cluster.n_unscored for cluster in counted),
        interval=limits.kind if whole else "none",
        no_interval="" if whole else limits.reason or "a number is beyond the largest float",
        sd=_finite(sd),
    )
