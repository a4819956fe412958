"""Kernels and distances of clients: against explicit sums over pairs, scikit-learn, and on average."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel

from fedllm_bench.diversity.embedding.kernels import (
    cosine_of_means,
    group_sums,
    kernel_features,
    median_distance,
    mmd2_of_pairs,
    mmd2_to_rest,
)


def _points(count: int = 60, dimensions: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def _kernel(points: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 bandwidth^2)) of all pairs, which the features only have on average."""
    return np.asarray(rbf_kernel(points.astype(np.float64), gamma=1 / (2 * bandwidth**2)))


def _mmd2(kernel: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Lemma 6 of Gretton et al., pair by pair."""
    within = [np.mean([kernel[i, j] for i in own for j in own if i != j]) for own in (x, y)]
    return sum(within) - 2 * np.mean([kernel[i, j] for i in x for j in y])


@pytest.mark.parametrize("dimensions", [3, 40, 700])
def test_features_have_length_one_and_the_kernel_as_product(dimensions: int) -> None:
    points = _points(40, dimensions)
    bandwidth = median_distance(points, seed=0)
    features = kernel_features(points, bandwidth, seed=0, num_features=4096)
    assert np.linalg.norm(features, axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    error = features @ features.T - _kernel(points, bandwidth)
    assert np.abs(error).max() < 0.1
    assert np.sqrt((error**2).mean()) < 1 / np.sqrt(2048)  # what independent frequencies err by


def test_features_are_unbiased_over_seeds() -> None:
    points = _points(6, 5)
    found = [kernel_features(points, 2.0, seed=seed, num_features=10) for seed in range(600)]
    products = np.array([each @ each.T for each in found])
    error = (products.mean(axis=0) - _kernel(points, 2.0))[np.triu_indices(6, 1)]
    noise = products.std(axis=0)[np.triu_indices(6, 1)] / np.sqrt(600)
    assert (np.abs(error) < 4 * noise).all()


def test_an_odd_number_of_features_is_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        kernel_features(_points(), 1.0, seed=0, num_features=7)


def test_the_median_distance_is_of_distinct_points_only() -> None:
    points = np.array([[0.0], [0.0], [0.0], [1.0], [5.0]], dtype=np.float32)  # 1 x3, 5 x3, 4
    assert median_distance(points, seed=0) == pytest.approx(4.0)
    assert median_distance(points[:3], seed=0) == 1.0


def test_the_median_distance_of_many_rows_is_of_a_seeded_sample() -> None:
    points = _points(1500, 3)
    assert median_distance(points, seed=1) == median_distance(points, seed=1) != median_distance(points, seed=2)
    whole = np.median(np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(1500, 1)])
    assert median_distance(points, seed=1) == pytest.approx(whole, rel=0.05)


def test_sums_of_groups_over_several_chunks() -> None:
    values = _points(9000, 2)
    groups = np.random.default_rng(1).integers(0, 7, 9000)
    expected = [values[groups == group].astype(np.float64).sum(axis=0) for group in range(8)]
    assert group_sums(values, groups, 8) == pytest.approx(np.array(expected), abs=1e-6)


def test_distances_are_the_mean_over_pairs() -> None:
    points, groups = _points(30), np.repeat([0, 1, 2, 3], [12, 10, 7, 1])
    features = kernel_features(points, 3.0, seed=0, num_features=64)
    kernel = features.astype(np.float64) @ features.T.astype(np.float64)
    counts, members = np.bincount(groups), [np.flatnonzero(groups == group) for group in range(4)]
    found = mmd2_of_pairs(group_sums(features, groups, 4), counts)
    for a in range(3):
        for b in range(3):
            expected = 0.0 if a == b else _mmd2(kernel, members[a], members[b])
            assert found[a, b] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(found[3]).all()
    assert np.isnan(found[:, 3]).all()
    rest = mmd2_to_rest(group_sums(features, groups, 4), counts)
    for a in range(3):
        assert rest[a] == pytest.approx(_mmd2(kernel, members[a], np.flatnonzero(groups != a)), abs=1e-6)
    assert np.isnan(rest[3])


def test_distances_are_near_those_of_the_exact_kernel() -> None:
    points, groups = _points(90), np.repeat([0, 1, 2], 30)
    points[groups == 2] += 1.0
    bandwidth = median_distance(points, seed=0)
    sums = group_sums(kernel_features(points, bandwidth, seed=0), groups, 3)
    found, kernel = mmd2_of_pairs(sums, np.bincount(groups)), _kernel(points, bandwidth)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        exact = _mmd2(kernel, np.flatnonzero(groups == a), np.flatnonzero(groups == b))
        assert found[a, b] == pytest.approx(exact, abs=0.02)
    assert found[0, 2] > 0.1 > found[0, 1]


def test_distances_of_equal_distributions_are_zero_on_average_and_may_be_negative() -> None:
    groups = np.repeat(np.arange(40), 5)
    sums = group_sums(kernel_features(_points(200, 8), 3.0, seed=0), groups, 40)
    pairs = mmd2_of_pairs(sums, np.bincount(groups))[np.triu_indices(40, 1)]
    assert (pairs < 0).mean() > 0.3
    assert abs(pairs.mean()) < 4 * pairs.std() / np.sqrt(40)


def test_cosines_are_scikit_learns() -> None:
    points, groups = _points(50), np.arange(50) % 6
    means = np.array([points[groups == group].mean(axis=0) for group in range(6)])
    assert cosine_of_means(points, groups, 6) == pytest.approx(cosine_similarity(means), abs=1e-6)
    assert cosine_of_means(np.zeros((2, 3), np.float32), np.arange(2), 2).tolist() == [[1, 0], [0, 1]]


def test_a_client_without_others_has_no_distance() -> None:
    features = kernel_features(_points(4), 1.0, seed=0)
    assert np.isnan(mmd2_to_rest(group_sums(features, np.zeros(4, np.int64), 1), np.array([4]))).all()
