"""Rows as points of a plane: principal components, and t-SNE of a sample (van der Maaten & Hinton, 2008)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MAX_POINTS = 4000
FEWEST_FOR_TSNE = 10
PERPLEXITY = 30.0
COMPONENTS_FOR_TSNE = 50  # as its authors advise


@dataclass(frozen=True)
class Map:
    """`rows`: the places of the sample; coordinates of shape (sample, 2); `explained`: shares of the variance."""

    rows: Ints
    pca: Floats
    explained: tuple[float, float]
    tsne: Floats | None  # None of fewer than 10 rows


def draw_map(vectors: Floats, clients: Ints, *, seed: int, max_points: int = MAX_POINTS) -> Map:
    """The map of at most `max_points` rows (see :func:`sample`); the components are those of the sample."""
    from sklearn.decomposition import PCA

    rows = sample(clients, max_points, seed)
    chosen = vectors[rows].astype(np.float64)
    num_components = min(COMPONENTS_FOR_TSNE, *chosen.shape)
    centred = chosen - chosen.mean(axis=0)
    if num_components < 2 or not np.abs(centred).max() > 1e-9:  # one row, one dimension or equal rows
        return Map(rows, np.zeros((len(rows), 2), dtype=np.float32), (0.0, 0.0), None)
    pca = PCA(num_components, svd_solver="full", random_state=seed % 2**32)
    points = pca.fit_transform(chosen)
    first, second = pca.explained_variance_ratio_[:2]
    return Map(rows, points[:, :2].astype(np.float32), (float(first), float(second)), _tsne(points, seed))


def _tsne(points: NDArray[np.float64], seed: int) -> Floats | None:
    from sklearn.manifold import TSNE

    if len(points) < FEWEST_FOR_TSNE:
        return None
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    found: Floats = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32).fit_transform(points)
    return found.astype(np.float32)


def sample(clients: Ints, most: int, seed: int) -> Ints:
    """Places of at most `most` rows in their order: of each client its share, and at least one while there is room.

    `clients` are numbers from 0. All rows where they are no more than `most`.
    """
    if len(clients) <= most:
        return np.arange(len(clients))
    rng = np.random.default_rng([seed, 3])
    shuffled = rng.permutation(len(clients))
    by_client = shuffled[np.argsort(clients[shuffled], kind="stable")]
    counts = np.bincount(clients)
    counts = counts[counts > 0]
    rank = np.concatenate([np.arange(count) for count in counts])
    # systematic: a client's k-th row stands at (k + a half) / count of it, its first one before all others
    standing = np.where(rank == 0, -1.0, (rank + 0.5) / np.repeat(counts, counts))
    chosen = np.lexsort((rng.random(len(clients)), standing))[:most]
    return np.asarray(np.sort(by_client[chosen]))
