"""What embeddings of prompts say of the clients: likeness, clusters, distances, heterogeneity and a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.embedding.cache import default_cache
from fedllm_bench.diversity.embedding.clustering import RULE, Clustering, cluster
from fedllm_bench.diversity.embedding.encoder import Embedded, embed
from fedllm_bench.diversity.embedding.heterogeneity import heterogeneity, number
from fedllm_bench.diversity.embedding.kernels import (
    cosine_of_means,
    group_sums,
    kernel_features,
    median_distance,
    mmd2_of_pairs,
    mmd2_to_rest,
)
from fedllm_bench.diversity.embedding.lsa import LSA
from fedllm_bench.diversity.embedding.maps import Map, draw_map
from fedllm_bench.diversity.embedding.settings import EncoderSettings
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import computed_on

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

STRATA = ("source", "language")
EMBEDDED = "mini:"  # how the sources of the embedded world begin


class EmbeddingInputs(Protocol):
    """What the measures of embeddings are computed with. `embedder` is None for the default."""

    @property
    def embedder(self) -> str | None: ...
    @property
    def permutations(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...


@dataclass(frozen=True)
class Arrays:
    """`clients`: their ids, sorted, m of them; what is of pairs is of shape (m, m), NaN where it cannot be computed.

    `vectors`: of all rows in their order, (n, d); `encoder`: the id, dimensions and limit of what made them.
    """

    clients: tuple[str, ...]
    similarity: Doubles
    mmd2: Doubles
    distance_to_rest: Doubles
    vectors: Floats
    map: Map
    encoder: dict[str, Any]


def embedding_section(
    rows: Sequence[DiversityRow], settings: EmbeddingInputs, topics: Sequence[str] | None = None
) -> tuple[dict[str, Any], Arrays]:
    """The section "embedding" of a report, and the arrays behind it. `topics`: of each row, where they are known.

    Raises a :class:`UserError` for no rows and where the encoder cannot be loaded.
    """
    if not rows:
        raise UserError("no rows to embed; give a split with rows")
    asked = EncoderSettings(name=_encoder(settings.embedder, rows), device=settings.device, seed=settings.seed)
    embedded = embed([row.prompt for row in rows], asked, default_cache())
    clients = tuple(sorted({row.client for row in rows}))
    of_row = number([row.client for row in rows])
    features = _features(embedded.vectors, settings.seed)
    arrays = _arrays(embedded, features, clients, of_row, settings.seed)
    groups = cluster(_likeness(embedded.vectors, of_row, len(clients)))
    section = {
        "computed_on": computed_on(rows, f"prompts embedded by {embedded.id}"),
        "order": [clients[place] for place in groups.order],
        "clusters": _clusters(groups),
        "similarity": _similarity(arrays.similarity),
        **_indexes(rows, features, of_row, settings, topics),
        "map": _map(arrays.map, of_row, rows),
    }
    return section, arrays


def distance_to_rest(rows: Sequence[DiversityRow], vectors: Floats, seed: int = 0) -> dict[str, float | None]:
    """Unbiased MMD^2 of each client and all others; None where either side has fewer than two rows."""
    clients, of_row = sorted({row.client for row in rows}), number([row.client for row in rows])
    sums = group_sums(_features(vectors, seed), of_row, len(clients))
    found = mmd2_to_rest(sums, np.bincount(of_row)).tolist()
    return {client: None if np.isnan(value) else value for client, value in zip(clients, found, strict=True)}


def _encoder(name: str | None, rows: Sequence[DiversityRow]) -> str | None:
    """LSA for the embedded world, unless another is asked for: its commands fetch nothing."""
    return LSA if name is None and all(row.source.startswith(EMBEDDED) for row in rows) else name


def _features(vectors: Floats, seed: int) -> Floats:
    return kernel_features(vectors, median_distance(vectors, seed), seed=seed)


def _arrays(embedded: Embedded, features: Floats, clients: tuple[str, ...], of_row: Ints, seed: int) -> Arrays:
    sums, counts = group_sums(features, of_row, len(clients)), np.bincount(of_row)
    return Arrays(
        clients=clients,
        similarity=cosine_of_means(embedded.vectors, of_row, len(clients)),
        mmd2=mmd2_of_pairs(sums, counts),
        distance_to_rest=mmd2_to_rest(sums, counts),
        vectors=embedded.vectors,
        map=draw_map(embedded.vectors, of_row, seed=seed),
        encoder=embedded.about,
    )


def _likeness(vectors: Floats, of_row: Ints, num_clients: int) -> Doubles:
    """Cosines of clients' means less the mean of all rows: texts share a direction, in which all clients are alike."""
    return cosine_of_means(vectors - vectors.mean(axis=0), of_row, num_clients)


def _clusters(groups: Clustering) -> dict[str, Any]:
    return {
        "labels": list(groups.labels),
        "number": groups.number,
        "rule": RULE,
        "silhouette": groups.silhouette,
    }


def _similarity(similarity: Doubles) -> dict[str, float | None]:
    """Over pairs of different clients."""
    pairs = similarity[np.triu_indices(len(similarity), k=1)]
    if not len(pairs):
        return {"mean": None, "least": None, "largest": None}
    return {"mean": float(pairs.mean()), "least": float(pairs.min()), "largest": float(pairs.max())}


def _indexes(
    rows: Sequence[DiversityRow],
    features: Floats,
    of_row: Ints,
    settings: EmbeddingInputs,
    topics: Sequence[str] | None,
) -> dict[str, Any]:
    names = (*STRATA, *(("topic",) if topics is not None else ()))
    labels: list[tuple[str, ...]] = [(row.source, row.language) for row in rows]
    if topics is not None:
        labels = [(*label, topic) for label, topic in zip(labels, topics, strict=True)]
    strata = number(labels)
    test = partial(heterogeneity, features, of_row, permutations=settings.permutations, seed=settings.seed)
    stratified = test(strata, stratified_by=names)
    # of one stratum both are the same, permutation by permutation
    unstratified = test(np.zeros_like(strata)) if strata.any() else replace(stratified, stratified_by=())
    return {"index": stratified.to_dict(), "index_unstratified": unstratified.to_dict()}


def _map(drawn: Map, of_row: Ints, rows: Sequence[DiversityRow]) -> dict[str, Any]:
    return {
        "pca": drawn.pca.tolist(),
        "tsne": None if drawn.tsne is None else drawn.tsne.tolist(),
        "client": of_row[drawn.rows].tolist(),
        "language": [rows[place].language for place in drawn.rows.tolist()],
        "explained": list(drawn.explained),
    }
