"""Distances between the distributions of clients' rows, by the maximum mean discrepancy (MMD) under a Gaussian kernel.

Gretton et al., 2012 (JMLR 13), Lemma 6: the unbiased estimate, a U-statistic, is
    MMD^2(X, Y) = mean k(x, x') over pairs of X + mean k(y, y') over pairs of Y - 2 mean k(x, y).
It is 0 on average for two samples of one distribution, so it may be negative. Kernels are inner products of random
features (Rahimi & Recht, 2007; orthogonal ones, Yu et al., 2016, which err less): cos and sin of the same angles, so
that k(x, x) = 1 exactly and every mean over pairs follows from sums over rows, in time linear in rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_FEATURES = 1024
ROWS_FOR_MEDIAN = 1000
ROWS_AT_ONCE = 4096


def median_distance(vectors: Floats, seed: int) -> float:
    """The median distance of distinct vectors among at most 1,000 rows drawn by `seed`; 1 where all are equal."""
    from scipy.spatial.distance import pdist

    rng = np.random.default_rng([seed, 1])
    some = vectors
    if len(vectors) > ROWS_FOR_MEDIAN:
        some = vectors[np.sort(rng.choice(len(vectors), ROWS_FOR_MEDIAN, replace=False))]
    distances = pdist(some.astype(np.float64))
    apart = distances[distances > 1e-6]
    return float(np.median(apart)) if len(apart) else 1.0


def kernel_features(vectors: Floats, bandwidth: float, *, seed: int, num_features: int = NUM_FEATURES) -> Floats:
    """Features of shape (n, num_features) and length 1, whose inner products are the Gaussian kernel in expectation.

    Raises ValueError where `num_features` is odd.
    """
    if num_features < 2 or num_features % 2:
        raise ValueError(f"num_features={num_features}: give an even number, a cosine and a sine for each frequency")
    half = num_features // 2
    frequencies = _frequencies(vectors.shape[1], half, seed) / bandwidth
    features = np.empty((len(vectors), num_features), dtype=np.float32)
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        angles = vectors[rows] @ frequencies.astype(np.float32)
        features[rows, :half], features[rows, half:] = np.cos(angles), np.sin(angles)
    features *= np.float32(1 / np.sqrt(half))
    return features


def _frequencies(dimensions: int, count: int, seed: int) -> Doubles:
    """(d, count) vectors, orthogonal within each d of them, as long as Gaussian ones are: unbiased (Yu et al.)."""
    rng = np.random.default_rng([seed, 2])
    blocks = []
    for _ in range(-(-count // dimensions)):
        directions, upper = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
        uniform = directions * np.sign(np.diag(upper))  # uniform over orthogonal matrices only with these signs
        blocks.append(uniform * np.linalg.norm(rng.normal(size=(dimensions, dimensions)), axis=0))
    return np.concatenate(blocks, axis=1)[:, :count]


def group_sums(values: Floats, groups: Ints, num_groups: int) -> Doubles:
    """Sums of rows by group: (n, d), (n,) -> (num_groups, d), in float64."""
    from scipy import sparse

    sums = np.zeros((num_groups, values.shape[1]))
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        own = groups[rows]
        member = sparse.csr_array((np.ones(len(own)), (own, np.arange(len(own)))), shape=(num_groups, len(own)))
        sums += member @ values[rows].astype(np.float64)
    return sums


def mmd2_of_pairs(sums: Doubles, counts: Ints) -> Doubles:
    """Unbiased MMD^2 of all pairs of clients from their feature sums: (m, d), (m,) -> (m, m).

    The diagonal is 0; NaN where a client of the pair has fewer than two rows.
    """
    within = _mean_within(sums, counts)
    means = sums / np.maximum(counts, 1)[:, None]
    found = within[:, None] + within[None, :] - 2 * means @ means.T
    np.fill_diagonal(found, np.where(np.isnan(within), np.nan, 0.0))
    return np.asarray((found + found.T) / 2)  # to the last bit


def mmd2_to_rest(sums: Doubles, counts: Ints) -> Doubles:
    """Unbiased MMD^2 of each client and all other rows, shape (m,); NaN where either has fewer than two rows."""
    rest, others = sums.sum(axis=0) - sums, counts.sum() - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        across = (sums * rest).sum(axis=1) / (counts * others)
    return np.asarray(_mean_within(sums, counts) + _mean_within(rest, others) - 2 * across)


def _mean_within(sums: Doubles, counts: Ints) -> Doubles:
    """The mean kernel over pairs of different rows of a group; features have length 1. NaN below two rows."""
    pairs = np.where(counts > 1, counts * (counts - 1.0), np.nan)
    return np.asarray(((sums**2).sum(axis=1) - counts) / pairs)


def cosine_of_means(vectors: Floats, groups: Ints, num_groups: int) -> Doubles:
    """Cosine similarity of the mean vectors of groups, of all pairs; 1 on the diagonal, 0 with a zero mean."""
    sums = group_sums(vectors, groups, num_groups)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    units = np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0)
    found = np.clip(units @ units.T, -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return np.asarray((found + found.T) / 2)
