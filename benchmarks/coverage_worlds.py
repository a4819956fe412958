"""Worlds with a known truth, from which benchmarks/coverage.py draws clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fedllm_bench.scores.estimators import (
    MEAN_OVER_CLIENTS,
    MEAN_OVER_TOKENS,
    PERPLEXITY,
    Estimator,
    worst_tenth,
)
from fedllm_bench.scores.score import SCALES
from fedllm_bench.scores.summaries import ClusterMean, Summary, paired_difference, summarise

# N clients
Array = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Means, weights and numbers of items of N clients, and the same clients' means under another model, if any."""

    means: Array
    weights: Array
    items: Array
    other: Array | None = None

    def clusters(self, means: Array) -> dict[str, ClusterMean]:
        columns = zip(means.tolist(), self.weights.tolist(), self.items.tolist(), strict=True)
        return {
            f"{i:04d}": ClusterMean(mean=mean, weight=weight, n_scored=int(items), n_unscored=0)
            for i, (mean, weight, items) in enumerate(columns)
        }


@dataclass(frozen=True, kw_only=True)
class World:
    """Where clients come from: `draw` gives a sample of N of them, `truth` is what their estimate estimates."""

    name: str
    draw: Callable[[Rng, int], Sample]
    truth: float
    estimator: Estimator = MEAN_OVER_CLIENTS
    scale: tuple[float, float] | None = None

    def after(self, sample: Sample) -> Summary:
        clusters = sample.clusters(sample.means)
        if sample.other is None:
            return summarise(clusters, estimator=self.estimator, scale=self.scale)
        other = sample.clusters(sample.other)
        return paired_difference(clusters, other, estimator=self.estimator, scale=self.scale)


def plain(values: Array, other: Array | None = None) -> Sample:
    ones = np.ones(len(values))
    return Sample(means=values, weights=ones, items=ones, other=other)


def _continuous() -> Iterator[World]:
    yield World(name="normal", draw=lambda rng, n: plain(rng.normal(size=n)), truth=0.0)
    yield World(name="exponential", draw=lambda rng, n: plain(rng.exponential(size=n)), truth=1.0)
    yield World(name="lognormal(1)", draw=lambda rng, n: plain(rng.lognormal(size=n)), truth=math.exp(0.5))
    yield World(name="t with 3 degrees", draw=lambda rng, n: plain(rng.standard_t(3, size=n)), truth=0.0)
    yield World(name="85% ties, rest normal(0, 1)", draw=lambda rng, n: plain(_tied(rng, n, 0.0)), truth=0.0)
    yield World(name="85% ties, rest normal(1, 1)", draw=lambda rng, n: plain(_tied(rng, n, 1.0)), truth=0.15)
    yield World(name="1 to 10 items, clustered", draw=_clustered, truth=1.0)


def _tied(rng: Rng, n: int, mean: float) -> Array:
    return np.where(rng.random(n) < 0.15, rng.normal(mean, 1, n), 0.0)


def _clustered(rng: Rng, n: int) -> Sample:
    """Gamma-distributed clients, whose items vary twice as much as they do."""
    items = rng.integers(1, 11, n).astype(np.float64)
    return Sample(means=rng.gamma(4, 0.25, n) + rng.normal(0, 1, n) / np.sqrt(items), weights=np.ones(n), items=items)


def _shares() -> Iterator[World]:
    for p in (0.5, 0.8, 0.95, 0.99, 0.998):
        for rho in (0.0, 0.3):
            name = f"share {p:g}, 1 to 10 items, correlation {rho:g}"
            yield World(name=name, draw=_share(p, rho), truth=p, scale=SCALES["share"])
    for plus, minus in ((0.1, 0.02), (0.3, 0.1)):
        name = f"difference of shares, +{plus:g} -{minus:g}"
        yield World(name=name, draw=_share_difference(plus, minus), truth=plus - minus, scale=SCALES["share"])


def _share(p: float, rho: float) -> Callable[[Rng, int], Sample]:
    def draw(rng: Rng, n: int) -> Sample:
        items = rng.integers(1, 11, n)
        own = rng.beta(p * (1 / rho - 1), (1 - p) * (1 / rho - 1), n) if rho else np.full(n, p)
        return Sample(means=rng.binomial(items, own) / items, weights=np.ones(n), items=items.astype(np.float64))

    return draw


def _share_difference(plus: float, minus: float) -> Callable[[Rng, int], Sample]:
    def draw(rng: Rng, n: int) -> Sample:
        which = rng.random(n)
        ours = np.where(which < plus, 1.0, np.where(which > 1 - minus, 0.0, 1.0))
        return plain(ours, np.where(which < plus, 0.0, np.where(which > 1 - minus, 1.0, 1.0)))

    return draw


def _tokens() -> Iterator[World]:
    """Clients with unequal numbers of tokens; those with more have a smaller loss."""
    loss = _mean_loss()
    yield World(name="mean over tokens", draw=_weighted, truth=loss, estimator=MEAN_OVER_TOKENS)
    yield World(name="perplexity", draw=_weighted, truth=math.exp(loss), estimator=PERPLEXITY)
    change = math.exp(loss) - math.exp(0.8 * loss)
    yield World(name="difference of perplexities", draw=_two_weighted, truth=change, estimator=PERPLEXITY)


def _weighted(rng: Rng, n: int) -> Sample:
    weights = rng.lognormal(0, 0.8, n)
    return Sample(means=rng.gamma(4, 0.25, n) * weights**-0.3, weights=weights, items=np.ones(n))


def _two_weighted(rng: Rng, n: int) -> Sample:
    """The second model's losses are 0.8 of the first's on average, with noise of their own."""
    first = _weighted(rng, n)
    return replace(first, other=0.8 * first.means * rng.gamma(25, 1 / 25, n))


def _mean_loss() -> float:
    """E[w loss] / E[w] with loss = gamma of mean 1 times w^-0.3, and w lognormal with sigma 0.8."""
    moment = {power: math.exp(power**2 * 0.8**2 / 2) for power in (0.7, 1.0)}
    return moment[0.7] / moment[1.0]


def _tails() -> Iterator[World]:
    """The worst tenth of losses, and of a second model's whose losses go along with them."""
    tail = worst_tenth(higher_is_better=False)
    z = float(special.ndtri(0.9))
    normal, skewed = float(stats.norm.pdf(z)) / 0.1, math.exp(0.5) * float(special.ndtr(1 - z)) / 0.1
    yield World(name="worst tenth, normal", draw=lambda rng, n: plain(rng.normal(size=n)), truth=normal, estimator=tail)
    yield World(
        name="worst tenth, lognormal(1)", draw=lambda rng, n: plain(rng.lognormal(size=n)), truth=skewed, estimator=tail
    )
    yield World(name="difference of worst tenths", draw=_two_models, truth=normal * (1 - 0.8), estimator=tail)


def _two_models(rng: Rng, n: int) -> Sample:
    """Normal losses with standard deviations 1 and 0.8, and correlation 0.875."""
    first = rng.normal(size=n)
    return plain(first, 0.7 * first + math.sqrt(0.8**2 - 0.7**2) * rng.normal(size=n))


def worlds() -> list[World]:
    return [*_continuous(), *_shares(), *_tokens(), *_tails()]
