"""Clusters and order of clients, and maps of rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from fedllm_bench.diversity.embedding.clustering import cluster
from fedllm_bench.diversity.embedding.maps import draw_map, sample


def _similarity(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(groups.max() + 1, 16))[groups] + 0.2 * rng.normal(size=(len(groups), 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


@pytest.mark.parametrize("number", [2, 5, 9])
def test_groups_are_found_and_stand_side_by_side(number: int) -> None:
    groups = np.random.default_rng(1).permutation(np.arange(60) % number)
    found = cluster(_similarity(groups))
    assert found.number == number
    assert adjusted_rand_score(groups, found.labels) == 1.0
    assert sorted(found.order) == list(range(60))
    along = [found.labels[place] for place in found.order]
    assert along == sorted(along)  # no group is interrupted, and they are counted in this order


def test_clients_without_groups_are_one_cluster() -> None:
    found = cluster(_similarity(np.arange(40)))
    assert (found.number, set(found.labels)) == (1, {0})
    assert found.silhouette is not None
    assert found.silhouette < 0.25


def test_of_equally_good_cuts_the_one_into_fewest_clusters_is_taken() -> None:
    twins, like_them, apart = (1, 1, 0, 0, 0), (0, 1, 1, 0, 0), (0, 0, 0, 1, 1)
    has = np.array([twins, twins, like_them, apart])
    found = cluster(has @ has.T / 2)
    assert found.silhouette == 0.5  # of two, (0.75 + 0.75 + 0.5 + 0) / 4, as of three, (1 + 1 + 0 + 0) / 4
    assert found.number == 2
    assert found.labels[0] == found.labels[1] == found.labels[2] != found.labels[3]


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_few_clients(number: int) -> None:
    found = cluster(np.eye(number))
    assert sorted(found.order) == list(range(number))
    assert len(found.labels) == number
    assert found.number == min(number, 1)


def test_the_order_is_no_longer_than_that_of_the_tree_alone() -> None:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    similarity = _similarity(np.arange(30) // 3)
    distances = 1 - similarity
    np.fill_diagonal(distances, 0)

    def length(order: np.ndarray) -> float:
        return float(distances[order[:-1], order[1:]].sum())

    plain = leaves_list(linkage(squareform(distances, checks=False), "average"))
    assert length(np.array(cluster(similarity).order)) <= length(plain) + 1e-9


def _vectors(count: int = 80) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 20)).astype(np.float32) * np.linspace(3, 0.1, 20, dtype="f4")


def test_components_are_those_of_the_singular_value_decomposition() -> None:
    vectors, clients = _vectors(), np.arange(80) % 4
    drawn = draw_map(vectors, clients, seed=0)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(drawn.pca) == pytest.approx(np.abs(u[:, :2] * s[:2]), abs=1e-4)
    assert drawn.explained == pytest.approx((s[:2] ** 2 / (s**2).sum()).tolist(), abs=1e-6)
    assert drawn.rows.tolist() == list(range(80))
    assert drawn.tsne is not None
    assert drawn.tsne.shape == (80, 2)


def test_equal_seeds_draw_equal_maps() -> None:
    one, same = (draw_map(_vectors(), np.arange(80) % 4, seed=3, max_points=40) for _ in range(2))
    assert np.array_equal(one.rows, same.rows)
    assert one.tsne is not None
    assert same.tsne is not None
    assert np.array_equal(one.tsne, same.tsne)


def test_few_or_equal_rows_have_no_neighbours_to_draw() -> None:
    assert draw_map(_vectors(6), np.zeros(6, np.int64), seed=0).tsne is None
    for vectors in (np.ones((30, 5), np.float32), _vectors(1)):
        drawn = draw_map(vectors, np.zeros(len(vectors), np.int64), seed=0)
        assert not drawn.pca.any()
        assert drawn.tsne is None
        assert drawn.explained == (0.0, 0.0)


def test_a_sample_has_each_client_by_its_share_and_at_least_once() -> None:
    clients = np.random.default_rng(0).permutation(np.repeat(np.arange(12), [600, 300, *[10] * 10]))
    rows = sample(clients, 100, seed=0)
    counts = np.bincount(clients[rows], minlength=12)
    assert len(set(rows.tolist())) == len(rows) == 100
    assert rows.tolist() == sorted(rows.tolist())
    assert counts.min() >= 1
    assert counts[0] == pytest.approx(60, abs=4)
    assert counts[1] == pytest.approx(30, abs=3)
    assert not np.array_equal(rows, sample(clients, 100, seed=1))


def test_a_sample_of_fewer_rows_than_clients_has_no_client_twice() -> None:
    clients = np.repeat(np.arange(50), 4)
    assert np.bincount(clients[sample(clients, 20, seed=0)]).max() == 1
