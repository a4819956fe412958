"""The intervals of means before results.json had version 5, kept to be compared: BCa from 20 clients on (percentile
for the worst tenth), Student's t below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from .coverage_worlds import Array, Rng, Sample, World

RESAMPLES = 400  # 2,000 then; fewer move the coverage by less than the error of so many draws
BCA_FROM = 20


def limits_before(world: World, sample: Sample, rng: Rng) -> tuple[float, float] | None:
    """None without an interval."""
    sides = [sample.means] if sample.other is None else [sample.means, sample.other]
    n, tail = len(sample.means), world.estimator.counts == "tail"
    if n < BCA_FROM:
        return None if tail else _t_before(world, sides, sample.weights)
    inner = _inner(world)
    drawn = rng.integers(0, n, (RESAMPLES, n))
    estimates = inner([side[drawn] for side in sides], sample.weights[drawn])
    whole = float(inner(sides, sample.weights))
    if tail:
        low, high = np.percentile(estimates, (2.5, 97.5))
    else:
        low, high = _bca(estimates, whole, _left_out(inner, sides, sample.weights))
    return _shown(world, float(low), float(high), len(sides))


def _inner(world: World) -> Callable[[Sequence[Array], Array], Array]:
    """The estimate of one side on the scale of its interval, or the difference of two."""
    how = world.estimator

    def of(sides: Sequence[Array], weights: Array) -> Array:
        found = [how.of(side, weights) for side in sides]
        return found[0] if len(found) == 1 else np.asarray(how.back(found[0]) - how.back(found[1]))

    return of


def _left_out(inner: Callable[[Sequence[Array], Array], Array], sides: Sequence[Array], weights: Array) -> Array:
    n = len(weights)
    kept = ~np.eye(n, dtype=bool)

    def without(column: Array) -> Array:
        return np.asarray(np.broadcast_to(column, (n, n))[kept].reshape(n, n - 1))

    return inner([without(side) for side in sides], without(weights))


def _bca(estimates: Array, whole: float, left_out: Array) -> tuple[float, float]:
    """Efron and Tibshirani, 1993, chapter 14; equal resamples have no width, as before."""
    if np.ptp(estimates) <= 1e-12 * max(1.0, abs(whole)):
        return whole, whole
    below = float((np.mean(estimates < whole) + np.mean(estimates <= whole)) / 2)
    bias, moved = float(special.ndtri(below)), left_out.mean() - left_out
    size = float((moved**2).sum()) ** 1.5
    skew = float((moved**3).sum()) / (6 * size) if size else 0.0
    ends = [special.ndtr(bias + (bias + z) / (1 - skew * (bias + z))) for z in special.ndtri([0.025, 0.975])]
    low, high = np.percentile(estimates, 100 * np.nan_to_num(np.asarray(ends), nan=0.5))
    return float(low), float(high)


def _t_before(world: World, sides: Sequence[Array], weights: Array) -> tuple[float, float]:
    inner, n = _inner(world), len(weights)
    whole = float(inner(sides, weights))
    values = n * whole - (n - 1) * _left_out(inner, sides, weights)
    half = float(special.stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    return _shown(world, whole - half, whole + half, len(sides))


def _shown(world: World, low: float, high: float, num_sides: int) -> tuple[float, float]:
    if num_sides > 1:
        return low, high
    return float(world.estimator.back(np.asarray(low))), float(world.estimator.back(np.asarray(high)))
