"""The index of heterogeneity: by hand, against sums over pairs, and its test under the null and against it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from fedllm_bench.diversity.embedding.heterogeneity import HeterogeneityIndex, heterogeneity, number
from fedllm_bench.diversity.embedding.kernels import kernel_features

BY = ("source", "language")


def _features(points: np.ndarray) -> np.ndarray:
    return kernel_features(points.astype(np.float32), 2.0, seed=0, num_features=64)


def _index(
    points: np.ndarray, clients: np.ndarray, strata: np.ndarray | None = None, permutations: int = 0, seed: int = 0
) -> HeterogeneityIndex:
    strata = np.zeros(len(points), np.int64) if strata is None else strata
    return heterogeneity(_features(points), clients, strata, permutations=permutations, seed=seed, stratified_by=BY)


def _by_pairs(points: np.ndarray, clients: np.ndarray, strata: np.ndarray) -> float:
    """The definition, row by row."""
    features = _features(points).astype(np.float64)
    kernel, rows = features @ features.T, np.arange(len(points))
    gains, rooms = [], []
    for row in rows:
        alike = (strata == strata[row]) & (rows != row)
        own, others = alike & (clients == clients[row]), alike & (clients != clients[row])
        if own.any() and others.any():
            gains.append(kernel[row, own].mean() - kernel[row, others].mean())
            rooms.append(1 - kernel[row, others].mean())
    return sum(gains) / sum(rooms)


def _mixed(seed: int = 0, count: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    clients, strata = rng.integers(0, 7, count), rng.integers(0, 3, count)
    return rng.normal(size=(count, 4)) + clients[:, None] * 0.1 + strata[:, None], clients, strata


def test_the_index_is_its_definition_pair_by_pair() -> None:
    points, clients, strata = _mixed()
    assert _index(points, clients, strata).value == pytest.approx(_by_pairs(points, clients, strata), abs=1e-6)
    whole = np.zeros_like(strata)
    assert _index(points, clients).value == pytest.approx(_by_pairs(points, clients, whole), abs=1e-6)


def test_clients_that_are_points_have_index_one_and_equal_rows_zero() -> None:
    clients = np.repeat(np.arange(5), 4)
    points = np.random.default_rng(0).normal(size=(5, 3))[clients]
    assert _index(points, clients).value == pytest.approx(1.0, abs=1e-5)
    assert _index(np.ones((20, 3)), clients, permutations=19).value == 0.0
    assert _index(np.ones((20, 3)), clients, permutations=19).p_value == 1.0  # ties count


def test_the_standard_error_is_that_of_leaving_clients_out() -> None:
    points, clients, strata = _mixed()
    without = [_by_pairs(points[clients != c], clients[clients != c], strata[clients != c]) for c in range(7)]
    expected = np.sqrt(6 / 7 * ((without - np.mean(without)) ** 2).sum())
    assert _index(points, clients, strata).se == pytest.approx(expected, rel=1e-4)


def test_a_stratum_that_a_client_leaves_alone_drops_out_of_the_standard_error() -> None:
    points, clients, strata = _mixed()
    strata = np.where((clients < 2) & (strata == 0), 3, strata)  # a stratum of two clients
    without = [_by_pairs(points[clients != c], clients[clients != c], strata[clients != c]) for c in range(7)]
    expected = np.sqrt(6 / 7 * ((without - np.mean(without)) ** 2).sum())
    assert _index(points, clients, strata).se == pytest.approx(expected, rel=1e-4)


def test_alike_clients_have_an_index_within_two_errors_of_zero_and_uniform_p_values() -> None:
    within, p_values = [], []
    for seed in range(120):
        rng = np.random.default_rng([seed, 7])
        clients, strata = rng.integers(0, 12, 120), rng.integers(0, 2, 120)
        points = rng.normal(size=(120, 4)) + 3 * strata[:, None]
        found = _index(points, clients, strata, permutations=19, seed=seed)
        assert found.value is not None
        assert found.se is not None
        within.append(abs(found.value) <= 2 * found.se)
        p_values.append(found.p_value)
    assert np.mean(within) >= 0.88  # 95% but for the 12 clients that the error is estimated from
    assert stats.kstest(np.array(p_values) - 1 / 40, "uniform").pvalue > 0.01
    assert 0.0 < np.mean(np.array(p_values) <= 0.05) <= 0.12


def test_users_who_only_differ_in_language_are_told_from_users_who_differ() -> None:
    rng = np.random.default_rng(0)
    clients = np.repeat(np.arange(12), 15)
    language = clients % 3  # each client has one
    points = rng.normal(size=(180, 4)) + 2.0 * language[:, None]
    unstratified, stratified = _index(points, clients, None, 99), _index(points, clients, language, 99)
    assert unstratified.p_value == 0.01
    assert unstratified.value is not None
    assert stratified.value is not None
    assert unstratified.value > 0.2 > 0.05 > stratified.value
    assert stratified.p_value is not None
    assert stratified.p_value > 0.05
    own = points + rng.normal(size=(12, 4))[clients]
    assert _index(own, clients, language, 99).p_value == 0.01


def test_alike_clients_of_strata_with_unequal_spread_have_no_index() -> None:
    """Pairs pooled over strata would find some: most pairs of one client are in the narrow stratum."""
    values = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        narrow = rng.integers(0, 2, 60)
        wide = rng.integers(0, 30, 60)
        clients, strata = np.concatenate([narrow, wide]), np.repeat([0, 1], 60)
        points = rng.normal(size=(120, 4)) * np.where(strata == 0, 0.1, 2.0)[:, None]
        values.append(_index(points, clients, strata).value)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(30)


def test_strata_that_compare_nothing_are_left_out_and_counted() -> None:
    points, clients, strata = _mixed()
    more = np.concatenate([points, np.zeros((6, 4))])
    of_client = np.concatenate([clients, [0, 0, 0, 1, 2, 3]])  # one client alone; three with a row each
    of_stratum = np.concatenate([strata, [3, 3, 3, 4, 4, 4]])
    found, base = _index(more, of_client, of_stratum, 9), _index(points, clients, strata, 9)
    assert (found.num_strata, found.num_strata_used, found.num_rows_used) == (5, 3, 90)
    assert found.value == base.value
    assert found.num_clients_used == 7


def test_nothing_to_compare_is_no_number() -> None:
    found = _index(np.ones((4, 2)), np.zeros(4, np.int64), permutations=9)
    assert (found.value, found.se, found.p_value, found.num_rows_used) == (None, None, None, 0)
    written = found.to_dict()
    assert written["rejected_at_0.05"] is False
    assert json.dumps(written, allow_nan=False)


@pytest.mark.parametrize(("value", "expected"), [(0.5, 0.2), (0.3, 0.6), (0.0, 1.0)])
def test_the_p_value_counts_the_observed_and_ties(value: float, expected: float) -> None:
    null = np.array([0.1, 0.2, 0.3, 0.4])
    found = HeterogeneityIndex(value, 0.1, null, 1, 1, 10, 5, ())
    assert found.p_value == pytest.approx(expected)
    assert found.to_dict()["rejected_at_0.05"] is False


def test_what_is_written_says_the_null_and_its_histogram() -> None:
    points, clients, strata = _mixed()
    written = _index(points, clients, strata, 50).to_dict()
    assert written["permutations"] == sum(count for _, _, count in written["null"]["histogram"]) == 50
    assert written["null"]["low"] < written["null"]["mean"] < written["null"]["high"]
    assert written["stratified_by"] == list(BY)


def test_equal_seeds_give_equal_tests_and_rows_may_come_in_any_order() -> None:
    points, clients, strata = _mixed()
    one, same, other = (_index(points, clients, strata, 20, seed) for seed in (0, 0, 1))
    assert one.null.tolist() == same.null.tolist() != other.null.tolist()
    shuffled = np.random.default_rng(5).permutation(len(points))
    moved = _index(points[shuffled], clients[shuffled], strata[shuffled])
    assert moved.value == pytest.approx(one.value, abs=1e-6)


def test_labels_are_numbered_in_their_order() -> None:
    assert number(["b", "a", "b", "c"]).tolist() == [1, 0, 1, 2]
    assert number([("x", "b"), ("x", "a")]).tolist() == [1, 0]
