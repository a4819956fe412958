"""From scores of items to a mean over clients with a 95% interval.

Items of one client are alike, so they are not independent: what is resampled is a client with all its items.
An :class:`Estimator` is a function of the clients' means and weights; every summary and every paired
difference goes through the same three rules for the interval (see :func:`summarise`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedllm_bench.metrics.base import Score, is_unseen

LEVEL = 0.95
BOOTSTRAP_FROM = 20  # clients; below, the bootstrap is too narrow (it uses n where t uses n - 1) and t is used
RESAMPLED_VALUES = 4_000_000  # at most this many are held at once: 32 MB for each array

# N clients; "..." stands for the resamples
Array = NDArray[np.float64]
Statistic = Callable[..., Array]  # columns of shape (..., N) -> (...)
Interval = Literal["bootstrap", "t", "none"]


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Equal seeds give equal intervals, in whatever order clients and metrics come."""

    seed: int = 0
    samples: int = 10_000


@dataclass(frozen=True, kw_only=True)
class Summary:
    """An estimate over `n` clients with its 95% interval.

    `n_scored` and `n_unscored` count items (pairs of items in a paired difference). `mean` is None where no
    client has a score, the limits where `interval` is "none".
    """

    mean: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_scored: int
    n_unscored: int
    interval: Interval
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


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """`of(means, weights)`, each of shape (..., N), gives one number for each leading index.

    `back` maps the estimate to what is shown: the interval of a perplexity is made on the scale of the loss
    and then exponentiated. A paired difference is one of shown numbers. An estimator that is not `smooth`
    (it hangs on a few clients) has no interval below 20 clients and a percentile one from there on.
    """

    description: str
    of: Callable[[Array, Array], Array]
    back: Callable[[Array], Array] = np.asarray
    smooth: bool = True


def _token_mean(means: Array, weights: Array) -> Array:
    return np.asarray((means * weights).sum(axis=-1) / weights.sum(axis=-1))


def _tail_mean(sign: int) -> Callable[[Array, Array], Array]:
    def of(means: Array, weights: Array) -> Array:
        worst = math.ceil(means.shape[-1] / 10)
        return np.asarray(sign * np.sort(sign * means, axis=-1)[..., :worst].mean(axis=-1))

    return of


MEAN_OVER_CLIENTS = Estimator(description="mean over clients", of=lambda means, _: np.asarray(means.mean(axis=-1)))
MEAN_OVER_TOKENS = Estimator(description="mean over tokens", of=_token_mean)
PERPLEXITY = Estimator(description="exp of the mean over tokens", of=_token_mean, back=np.exp)


def worst_tenth(*, higher_is_better: bool) -> Estimator:
    """The mean of the worst ceil(N / 10) clients.

    A difference compares the worst tenth of one side with that of the other, which may be other clients.
    """
    sign = 1 if higher_is_better else -1
    return Estimator(description="mean over the worst tenth of clients", of=_tail_mean(sign), smooth=False)


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
    clusters: Mapping[str, ClusterMean],
    *,
    estimator: Estimator = MEAN_OVER_CLIENTS,
    resampling: Resampling | None = None,
) -> Summary:
    """The estimate over clients and its 95% interval.

    With 20 clients or more a bootstrap over clients (BCa; percentile for an estimator that is not smooth).
    With 2 to 19 Student's t on jackknife pseudo-values, because the bootstrap covers too rarely there (92%
    instead of 95% at 12 clients); for the mean over clients this is the textbook t interval. With one client
    there is none.
    """
    names = [name for name in sorted(clusters) if clusters[name].mean is not None]
    columns = _columns(clusters, names)
    estimate, low, high, interval = _estimate(estimator.of, columns, estimator.smooth, resampling or Resampling())
    with np.errstate(over="ignore"):  # a perplexity beyond the largest float is shown as not computed
        shown = [_finite(estimator.back(np.asarray(x))) for x in (estimate, low, high)]
    return _summary(shown, interval, len(names), list(clusters.values()))


def paired_difference(
    a: Mapping[str, ClusterMean],
    b: Mapping[str, ClusterMean],
    *,
    estimator: Estimator = MEAN_OVER_CLIENTS,
    resampling: Resampling | None = None,
) -> Summary:
    """a - b over the clients scored in both; a client is drawn with both its sides.

    Intervals as in :func:`summarise`. :func:`paired_clusters` gives the two sides over equal items.
    """
    shared = sorted(a.keys() & b.keys())
    names = [name for name in shared if a[name].mean is not None and b[name].mean is not None]

    def difference(*columns: Array) -> Array:
        return np.asarray(estimator.back(estimator.of(*columns[:2])) - estimator.back(estimator.of(*columns[2:])))

    columns = [*_columns(a, names), *_columns(b, names)]
    with np.errstate(over="ignore", invalid="ignore"):
        *numbers, interval = _estimate(difference, columns, estimator.smooth, resampling or Resampling())
    return _summary([_finite(x) for x in numbers], interval, len(names), [a[name] for name in shared])


def _columns(clusters: Mapping[str, ClusterMean], names: list[str]) -> list[Array]:
    means = [clusters[name].mean for name in names]
    return [
        np.asarray(means, dtype=np.float64),
        np.asarray([clusters[n].weight for n in names], dtype=np.float64),
    ]


def _finite(value: Array | float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _summary(shown: list[float | None], interval: Interval, n: int, clusters: list[ClusterMean]) -> Summary:
    mean, low, high = shown
    whole = low is not None and high is not None
    return Summary(
        mean=mean,
        ci_low=low if whole else None,
        ci_high=high if whole else None,
        n=n,
        n_scored=sum(cluster.n_scored for cluster in clusters),
        n_unscored=sum(cluster.n_unscored for cluster in clusters),
        interval=interval if whole else "none",
    )


def _estimate(
    statistic: Statistic, columns: list[Array], smooth: bool, resampling: Resampling
) -> tuple[float, float, float, Interval]:
    """(estimate, low, high, kind of interval); NaN stands for what cannot be computed."""
    n = len(columns[0])
    if n == 0:
        return math.nan, math.nan, math.nan, "none"
    estimate = float(statistic(*columns))
    if not math.isfinite(estimate) or n == 1 or (n < BOOTSTRAP_FROM and not smooth):
        return estimate, math.nan, math.nan, "none"
    if n < BOOTSTRAP_FROM:
        return (estimate, *_t_interval(statistic, columns, estimate), "t")
    return (estimate, *_bootstrap_interval(statistic, columns, estimate, smooth, resampling), "bootstrap")


def _t_interval(statistic: Statistic, columns: list[Array], estimate: float) -> tuple[float, float]:
    n = len(columns[0])
    left_out = np.array([float(statistic(*(np.delete(column, i) for column in columns))) for i in range(n)])
    pseudo_values = n * estimate - (n - 1) * left_out
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * pseudo_values.std(ddof=1) / math.sqrt(n)
    return estimate - float(half), estimate + float(half)


def _bootstrap_interval(
    statistic: Statistic, columns: list[Array], estimate: float, smooth: bool, resampling: Resampling
) -> tuple[float, float]:
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # equal clients: handled below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            columns,
            lambda *resampled, axis: statistic(*resampled),
            paired=True,  # the columns of one client stay together
            vectorized=True,
            axis=-1,
            n_resamples=resampling.samples,
            batch=max(1, RESAMPLED_VALUES // len(columns[0])),
            confidence_level=LEVEL,
            method="BCa" if smooth else "percentile",
            rng=np.random.default_rng(resampling.seed),
        )
    if np.ptp(result.bootstrap_distribution) <= 1e-12 * max(1.0, abs(estimate)):
        return estimate, estimate  # all clients are equal but for rounding, where BCa is 0/0
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
