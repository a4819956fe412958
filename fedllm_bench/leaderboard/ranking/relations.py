"""Which of two rows is clearly better, for all pairs of a board at once.

A row is clearly better than another where both intervals of the difference exclude 0 on its side:
    over seeds     Student's t on the differences of seeds that both rows have, if these are three or more; else
                   Welch's t on the two rows' seeds
    over units     clients or questions, each with its value's mean over the row's seeds: the rule of every difference
                   (docs/statistics.md), for all pairs in a few products of matrices. Where it gives no interval,
                   as for the worst tenth of few clients, nothing is clear.
Welch, 1947, The generalization of Student's problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedllm_bench.leaderboard.ranking.intervals import always_scored
from fedllm_bench.leaderboard.ranking.measures import Measure
from fedllm_bench.scores.estimators import Estimator, freedom_of, refused, shown_values
from fedllm_bench.scores.intervals import NO_WIDTH, most_elsewhere, reach
from fedllm_bench.scores.levels import UPPER
from fedllm_bench.scores.seeds import point
from fedllm_bench.scores.summaries import columns_of, of_differences

# R rows, N units (clients or questions), S seeds
Array = NDArray[np.float64]
Signs = NDArray[np.int8]  # (R, R): 1 where the row is clearly better than the column, -1 clearly worse, 0 neither
PAIRED_FROM = 3  # shared seeds


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Rows that are scored on the same items under one metric."""

    measures: Sequence[Measure]

    @property
    def estimator(self) -> Estimator:
        return self.measures[0].how


def clearly_better(compared: Compared) -> Signs:
    """Signs in the sense of the metric: 1 is better, also where lower is."""
    if not compared.measures:
        return np.zeros((0, 0), dtype=np.int8)
    seeds, units = seed_signs(compared), unit_signs(compared)
    both = np.where(seeds == units, seeds, 0).astype(np.int8)
    return both if compared.measures[0].higher_is_better else -both


def seed_values(measure: Measure) -> dict[int, float]:
    """Seed -> the estimate of that seed's model."""
    found = {seed: point(measure.how, side.clusters) for seed, side in measure.seeds.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def seed_signs(compared: Compared) -> Signs:
    """The sign of the difference of each pair where its t interval over seeds excludes 0, else 0. Shape (R, R)."""
    values = [seed_values(measure) for measure in compared.measures]
    signs = np.zeros((len(values), len(values)), dtype=np.int8)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, found in enumerate(values):
        groups.setdefault(tuple(sorted(found)), []).append(row)
    for rows in groups.values():
        for columns in groups.values():
            signs[np.ix_(rows, columns)] = _of_groups([values[i] for i in rows], [values[i] for i in columns])
    return signs


def _of_groups(rows: Sequence[Mapping[int, float]], columns: Sequence[Mapping[int, float]]) -> Signs:
    """Of rows that all have the same seeds, and columns that do."""
    shared = sorted(rows[0].keys() & columns[0].keys())
    if len(shared) >= PAIRED_FROM:
        a, b = (np.array([[one[seed] for seed in shared] for one in side]) for side in (rows, columns))
        difference = a[:, None, :] - b[None, :, :]
        error = difference.std(axis=-1, ddof=1) / np.sqrt(len(shared))
        return _of_t(difference.mean(axis=-1), error, np.full(error.shape, len(shared) - 1.0))
    if min(len(rows[0]), len(columns[0])) < 2:
        return np.zeros((len(rows), len(columns)), dtype=np.int8)
    return _welch(np.array([list(one.values()) for one in rows]), np.array([list(one.values()) for one in columns]))


def _welch(a: Array, b: Array) -> Signs:
    parts = [side.var(axis=-1, ddof=1) / side.shape[-1] for side in (a, b)]
    square = parts[0][:, None] + parts[1][None, :]
    below = parts[0][:, None] ** 2 / (a.shape[-1] - 1) + parts[1][None, :] ** 2 / (b.shape[-1] - 1)
    freedom = np.divide(square**2, below, out=np.ones_like(square), where=below > 0)
    return _of_t(a.mean(axis=-1)[:, None] - b.mean(axis=-1)[None, :], np.sqrt(square), freedom)


def unit_signs(compared: Compared) -> Signs:
    """As :func:`seed_signs`, over clients or questions: the signs of :func:`.intervals.over_units` of each pair."""
    first = next(iter(compared.measures[0].seeds.values())).clusters
    names = always_scored([first])
    nothing = np.zeros((len(compared.measures), len(compared.measures)), dtype=np.int8)
    if len(names) < 2 or refused(compared.estimator, len(names)):
        return nothing
    values = np.stack([unit_values(measure) for measure in compared.measures])  # (R, N)
    mean, variance, third = _moments(values)
    freedom = freedom_of(compared.estimator, columns_of(first, names)[1], of_difference=True)
    below, above = reach(variance, third, len(names), freedom)
    equal = np.sqrt(variance) <= NO_WIDTH * np.maximum(1.0, np.abs(mean))
    if compared.estimator.is_mean and compared.measures[0].scale is not None:
        return np.where(
            equal, _signs_of_equal(mean, compared, min(len(names), freedom + 1)), _signs(mean, below, above)
        )
    return np.where(equal, nothing, _signs(mean, below, above))


def unit_values(measure: Measure) -> Array:
    """The value of each unit, mean over seeds; shape (N,), units in the order of their names."""
    of_seeds = []
    for side in measure.seeds.values():
        columns = columns_of(side.clusters, always_scored([side.clusters]))
        centre = measure.how.back(measure.how.of(*columns))
        values = shown_values(measure.how, *columns)
        of_seeds.append(values - values.mean() + centre)  # so that their mean is the estimate
    return np.asarray(np.mean(of_seeds, axis=0))


def _moments(values: Array) -> tuple[Array, Array, Array]:
    """Mean, variance and third moment of the difference of each pair of rows, each of shape (R, R)."""
    num_units, means = values.shape[-1], values.mean(axis=-1)
    centred = values - means[:, None]
    products, mixed = centred @ centred.T, centred**2 @ centred.T  # of c_i c_j, and of c_i^2 c_j
    squares, cubes = np.diag(products), np.diag(mixed)
    variance = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
    rounding = NO_WIDTH * (squares[:, None] + squares[None, :])  # below it the rows are equal but for a shift
    third = cubes[:, None] - 3 * mixed + 3 * mixed.T - cubes[None, :]
    variance = np.where(variance <= rounding, 0.0, variance) / (num_units - 1)
    return means[:, None] - means[None, :], variance, third / num_units


def _signs_of_equal(mean: Array, compared: Compared, counted: float) -> Signs:
    """Of pairs of which all units differ alike."""
    low, high = of_differences(compared.measures[0].scale) or (0.0, 0.0)
    elsewhere = most_elsewhere(counted)
    return _signs(mean, elsewhere * (mean - low), elsewhere * (high - mean))


def _signs(mean: Array, below: Array, above: Array) -> Signs:
    """1 or -1 where the interval from mean - below to mean + above excludes 0."""
    return np.asarray(np.where(mean - below > 0, 1, np.where(mean + above < 0, -1, 0)), dtype=np.int8)


def _of_t(mean: Array, error: Array, freedom: Array) -> Signs:
    """Of Student's t; 0 where the spread is rounding, for there is no interval."""
    half = stats.t.ppf(UPPER, freedom) * error
    return np.where(error > NO_WIDTH * np.maximum(1.0, np.abs(mean)), _signs(mean, half, half), 0).astype(np.int8)
