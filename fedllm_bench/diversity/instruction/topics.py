"""Topics of prompts: clusters of their embeddings, named by the terms that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.diversity.instruction.terms import class_terms, common_terms, terms_of
from fedllm_bench.diversity.rows import DiversityRow

NUMBERS = (4, 6, 8, 10, 12, 16, 20, 24)  # of topics that are tried
FITTED, JUDGED = 5_000, 2_000  # rows that k-means and the silhouette are computed on, at most
ROWS_A_TOPIC = 8  # on average at least
INNER = 5  # parts of a topic at most
ROWS_A_PART = 10  # on average at least
TERMS, INNER_TERMS = 8, 4
RULE = "k-means; the number with the largest mean silhouette of {numbers}"

Vectors = NDArray[np.float32]
Labels = NDArray[np.intp]


@dataclass(frozen=True)
class Topics:
    """The topic of each row, 0 to topics - 1 in the order of size, and how their number was found."""

    labels: Labels
    rule: str


def find_topics(vectors: Vectors, seed: int) -> Topics:
    """k-means of unit vectors of shape (rows, d); the number of topics by the silhouette of a seeded sample."""
    distinct = len(np.unique(vectors, axis=0))
    numbers = [k for k in NUMBERS if k * ROWS_A_TOPIC <= len(vectors) and k < distinct]
    if not numbers:
        return Topics(np.zeros(len(vectors), dtype=np.intp), "too few rows for more than one topic")
    sample = _sample(len(vectors), FITTED, seed)
    judged = _sample(len(sample), JUDGED, seed + 1)
    fits = [_fit(vectors[sample], k, seed) for k in numbers]
    scores = [_silhouette(vectors[sample][judged], fit.labels_[judged]) for fit in fits]
    best = fits[int(np.argmax(scores))]
    tried = ", ".join(map(str, numbers))
    return Topics(_by_size(best.predict(vectors)), RULE.format(numbers=tried))


def topic_entries(rows: Sequence[DiversityRow], vectors: Vectors, topics: Topics, seed: int) -> list[dict[str, Any]]:
    """Terms, rows, clients, languages and parts of each topic."""
    texts = [terms_of(row.prompt) for row in rows]
    banned = common_terms(texts, [row.language for row in rows])
    names = class_terms(texts, topics.labels, banned, TERMS)
    entries = []
    for topic, terms in enumerate(names):
        own = np.flatnonzero(topics.labels == topic).tolist()
        entries.append(
            {
                "id": str(topic),
                "terms": terms,
                "rows": len(own),
                "clients": len({rows[i].client for i in own}),
                "languages": dict(Counter(rows[i].language for i in own).most_common()),
                "inner": _parts([texts[i] for i in own], vectors[own], banned, seed),
            }
        )
    return entries


def _parts(texts: Sequence[Sequence[str]], vectors: Vectors, banned: frozenset[str], seed: int) -> list[dict[str, Any]]:
    """What a topic is made of: its rows clustered again, named against each other."""
    number = min(INNER, len(texts) // ROWS_A_PART, len(np.unique(vectors, axis=0)) - 1)
    if number < 2:
        return []
    sample = _sample(len(vectors), FITTED, seed)
    labels = _by_size(_fit(vectors[sample], number, seed).predict(vectors))
    names = class_terms(texts, labels, banned, INNER_TERMS)
    return [{"terms": terms, "rows": int((labels == part).sum())} for part, terms in enumerate(names)]


def _sample(count: int, most: int, seed: int) -> Labels:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, count, most]).choice(count, most, replace=False))


def _fit(vectors: Vectors, number: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(number, n_init=3, random_state=seed).fit(vectors)


def _silhouette(vectors: Vectors, labels: Labels) -> float:
    from sklearn.metrics import silhouette_score

    found = len(np.unique(labels))
    return float(silhouette_score(vectors, labels)) if 1 < found < len(labels) else -1.0


def _by_size(labels: Labels) -> Labels:
    """The same groups, numbered from the largest on; empty ones get no number."""
    groups, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    place = np.empty(len(groups), dtype=np.intp)
    place[np.lexsort((groups, -counts))] = np.arange(len(groups))
    return place[inverse]
