"""Groups of clients that are alike, and an order in which neighbours are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MOST_CLUSTERS = 20
LEAST_SILHOUETTE = 0.25  # below, no substantial structure (Kaufman & Rousseeuw, 1990, table 4 of chapter 2)
RULE = (
    "average linkage of 1 - cosine of mean embeddings less the mean of all rows; of 2 to 20 clusters the number with "
    "the largest mean silhouette, one cluster where that is below 0.25"
)


@dataclass(frozen=True)
class Clustering:
    """`order`: places of clients, alike ones side by side; `labels`: 0 to number - 1, counted along that order."""

    order: tuple[int, ...]
    labels: tuple[int, ...]
    number: int
    silhouette: float | None


def cluster(similarity: Doubles) -> Clustering:
    """Clusters from cosine similarities, (m, m). The order of leaves is the best one (Bar-Joseph et al., 2001)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(similarity) < 3:
        return Clustering(tuple(range(len(similarity))), (0,) * len(similarity), int(len(similarity) > 0), None)
    distances = np.clip(1 - similarity, 0, None)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), method="average", optimal_ordering=True)
    order = leaves_list(tree)
    labels, silhouette = _best_cut(tree, distances)
    return Clustering(tuple(order.tolist()), _counted(labels, order), len(set(labels.tolist())), silhouette)


def _best_cut(tree: Doubles, distances: Doubles) -> tuple[NDArray[np.int64], float | None]:
    from scipy.cluster.hierarchy import cut_tree
    from sklearn.metrics import silhouette_score

    sizes = range(2, min(MOST_CLUSTERS, len(distances) - 1) + 1)
    cuts = cut_tree(tree, n_clusters=list(sizes)).T
    scores = [float(silhouette_score(distances, labels, metric="precomputed")) for labels in cuts]
    best = int(np.argmax(scores))  # the first: of equal ones the fewest clusters
    if scores[best] < LEAST_SILHOUETTE:
        return np.zeros(len(distances), dtype=np.int64), scores[best]
    return cuts[best], scores[best]


def _counted(labels: NDArray[np.int64], order: NDArray[np.int64]) -> tuple[int, ...]:
    number: dict[int, int] = {}
    for place in order.tolist():
        number.setdefault(int(labels[place]), len(number))
    return tuple(number[label] for label in labels.tolist())
