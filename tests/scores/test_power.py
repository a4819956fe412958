"""Power, Holm and the paired t: by hand, against known values and scipy, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from fedllm_bench.scores.power import MANY, detectable, needed, power, smallest
from fedllm_bench.scores.significance import holm, paired_t


@pytest.mark.parametrize(
    ("effect", "n"),
    [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (-0.5, 34)],  # the table of paired t tests in G*Power and Cohen
)
def test_needed_is_the_published_number_of_pairs(effect, n):
    assert needed(effect) == n
    assert power(effect, n) >= 0.8 > power(effect, n - 1)


@pytest.mark.parametrize(("effect", "n"), [(0.5, 34), (0.5, 20), (0.3, 50), (2.0, 5), (20.0, 2)])
def test_power_is_its_integral_over_the_standard_deviation(effect, n):
    """Given s, the mean must lie beyond limit * s / sqrt(n); (n - 1) s^2 is chi-squared. No noncentral t in it."""
    limit, shift = stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)

    def told_apart(s: float) -> float:
        beyond = stats.norm.sf(limit * s - shift) + stats.norm.cdf(-limit * s - shift)
        return float(beyond * 2 * s * (n - 1) * stats.chi2.pdf((n - 1) * s * s, n - 1))

    expected, _ = integrate.quad(told_apart, 0, 6, limit=500, points=[1.0])
    assert power(effect, n) == pytest.approx(expected, abs=1e-5)


def test_power_is_the_noncentral_t_where_scipy_has_it():
    limit = stats.t.ppf(0.975, 33)
    shift = 0.5 * math.sqrt(34)
    expected = stats.nct.sf(limit, 33, shift) + stats.nct.cdf(-limit, 33, shift)  # statsmodels' TTestPower is this
    assert power(0.5, 34) == pytest.approx(expected, abs=1e-5)
    assert power(0.5, 34) == pytest.approx(0.80778, abs=1e-5)  # G*Power, difference between two dependent means


@pytest.mark.parametrize(("effect", "n"), [(0.3, 30), (1.2, 6), (0.0, 12)])
def test_power_is_how_often_simulated_pairs_are_told_apart(effect, n):
    rng = np.random.default_rng([n, round(10 * effect)])
    draws = rng.normal(effect, 1.0, size=(20_000, n))
    told_apart = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    assert told_apart.mean() == pytest.approx(power(effect, n), abs=0.012)  # three standard errors


def test_the_needed_number_has_the_power_it_promises():
    effect = 0.45
    draws = np.random.default_rng(1).normal(effect, 1.0, size=(20_000, needed(effect)))
    assert (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 10, 80, 1000])
def test_detectable_is_the_inverse_of_power(n):
    assert power(detectable(n), n) == pytest.approx(0.8, abs=1e-6)
    assert needed(detectable(n) * (1 + 1e-6)) <= n


def test_no_effect_needs_no_number():
    assert needed(0.0) is needed(math.inf) is needed(1e-9) is detectable(1) is None
    assert needed(2.9 / math.sqrt(MANY)) is not None
    assert needed(1e6) == 2


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 4 x, 3 x, 2 x, then no less
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
    assert holm([None, 0.02, None, 0.04]) == [None, 0.04, None, 0.04]


def test_holm_keeps_the_family_wise_error_where_the_plain_test_does_not():
    p = np.random.default_rng(2).uniform(size=(4000, 5))
    first_false = [min(holm(row)) < 0.05 for row in p.tolist()]
    assert np.mean(first_false) == pytest.approx(0.05, abs=0.011)
    assert np.mean(p.min(axis=1) < 0.05) > 0.2


def test_paired_t_is_scipys():
    differences = np.random.default_rng(3).normal(0.3, 1.0, size=5).tolist()
    found, expected = paired_t(differences), stats.ttest_1samp(differences, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert (found.mean, found.p_value) == pytest.approx((np.mean(differences), expected.pvalue))
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high))
    assert (found.sd, found.n) == (pytest.approx(np.std(differences, ddof=1)), 5)


@pytest.mark.parametrize("differences", [[0.2], [0.1 + 0.2, 0.3], [0.0, 0.0, 0.0]])
def test_equal_differences_and_a_single_one_have_no_p_value(differences):
    found = paired_t(differences)
    assert (found.p_value, found.ci_low, found.ci_high) == (None, None, None)
    assert found.mean == pytest.approx(differences[0])


def test_intervals_cover_the_truth_as_often_as_they_say():
    draws = np.random.default_rng(4).normal(0.7, 2.0, size=(4000, 4))
    covered = [found.ci_low < 0.7 < found.ci_high for found in map(paired_t, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.011)


def test_three_seeds_show_large_effects_only_and_less_under_holm():
    assert detectable(3) == pytest.approx(3.26, abs=0.01)
    assert detectable(5) == pytest.approx(1.68, abs=0.01)
    assert detectable(3, 13) == pytest.approx(11.8, abs=0.05)  # at 5% over 13 metrics
    assert power(detectable(3, 13), 3, 13) == pytest.approx(0.8, abs=1e-6)


def test_the_smallest_difference_is_the_effect_in_units_of_the_spread():
    assert smallest(5, 0.02) == pytest.approx(0.02 * detectable(5))
    assert smallest(1, 0.02) is smallest(5, 0.0) is smallest(5, None) is None
