"""Correlations and the regression of gains: against scipy and by hand, known answers, p uniform where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedllm_bench.diversity.insight.association import (
    Resamples,
    correlation,
    detectable,
    mean_rho,
    permutation_p,
    regression,
)

FEW = Resamples(permutations=499, samples=400)


def planted(n=60, slope=1.0, noise=1.0, runs=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    own = rng.normal(size=n)  # of the client in all runs: repeats of a client are not independent
    return x, np.stack([slope * x + own + noise * rng.normal(size=n) + 5 * run for run in range(runs)])


def test_one_run_has_scipys_rho_and_about_its_p_value():
    x, gains = planted(n=25, slope=0.4, runs=1)
    x = np.round(x)  # ties
    found, right = correlation(x, gains, Resamples(permutations=9999)), stats.spearmanr(x, gains[0])
    assert found.rho == pytest.approx(right.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(right.pvalue, abs=0.01)
    assert (found.n, found.interval, found.by_run) == (25, "bootstrap", (found.rho,))


def test_several_runs_are_blocks_and_their_rho_is_the_mean():
    x, gains = planted(runs=3)
    found = correlation(x, gains, FEW)
    by_run = [stats.spearmanr(x, run).statistic for run in gains]
    assert found.by_run == pytest.approx(by_run)
    assert found.rho == pytest.approx(np.mean(by_run))
    moved = correlation(x, gains + np.array([[0.0], [100.0], [-7.0]]), FEW)  # a level of its own for each run
    assert moved == found


def test_a_planted_slope_is_found_with_its_sign_and_its_predictor():
    rng = np.random.default_rng(3)
    x, gains = planted(slope=1.5)
    other = 0.6 * x + rng.normal(size=len(x))  # goes with x, and does nothing
    found = correlation(x, gains, FEW)
    assert found.p_value == 1 / 500
    assert 0.4 < found.low < found.rho < found.high < 1
    assert correlation(-x, gains, FEW).rho == pytest.approx(-found.rho)
    assert correlation(other, gains, FEW).low > 0  # by itself it seems to matter
    model = regression({"x": x, "other": other}, gains).coefficients
    assert model["x"].low > 0.3
    assert model["other"].low < 0 < model["other"].high
    assert model["x"].vif == pytest.approx(1 / (1 - np.corrcoef(x, other)[0, 1] ** 2))


def test_where_nothing_is_p_is_uniform_although_runs_repeat_the_clients():
    rng = np.random.default_rng(5)
    p_values, coefficients = [], []
    for seed in range(200):
        _, gains = planted(n=30, slope=0, runs=3, noise=0.3, seed=seed)
        x = rng.exponential(size=30)
        p_values.append(permutation_p(x, gains, Resamples(permutations=199, seed=seed)))
        coefficients.append(regression({"x": x, "y": rng.normal(size=30)}, gains).coefficients["x"].p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert stats.kstest(coefficients, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("n", "kind"), [(12, "normal"), (40, "bootstrap")])
def test_intervals_cover_the_true_rho(n, kind):
    slope, covered = 0.8, 0
    pearson = slope / np.sqrt(slope**2 + 1)
    truth = 6 / np.pi * np.arcsin(pearson / 2)  # Spearman's rho of normal pairs
    for seed in range(100):
        rng = np.random.default_rng([seed, 9])
        x = rng.normal(size=n)
        found = correlation(x, (slope * x + rng.normal(size=n))[None], Resamples(permutations=1, samples=200))
        assert found.interval == kind
        covered += found.low <= truth <= found.high
    assert covered / 100 > 0.87


def test_the_regression_is_least_squares_with_hc3_errors():
    rng = np.random.default_rng(1)
    x, gains = planted(n=30, runs=2)
    z = rng.normal(size=30)
    found = regression({"x": x, "z": z}, gains)
    y = stats.zscore(gains.mean(axis=0), ddof=1)
    design = np.column_stack([np.ones(30), stats.zscore(x, ddof=1), stats.zscore(z, ddof=1)])
    beta, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
    assert [found.coefficients[name].beta for name in ("x", "z")] == pytest.approx(beta[1:])
    assert found.r2 == pytest.approx(1 - rest[0] / (y @ y))
    # HC3 is nearly the jackknife: leave a client out, fit again
    left = np.stack([np.linalg.lstsq(np.delete(design, i, 0), np.delete(y, i), rcond=None)[0] for i in range(30)])
    hc3 = np.sqrt(((left - beta) ** 2).sum(axis=0))
    half = stats.t.ppf(0.975, 27) * hc3
    assert [found.coefficients[name].high for name in ("x", "z")] == pytest.approx((beta + half)[1:])
    one = regression({"x": x}, gains)
    assert one.coefficients["x"].beta == pytest.approx(stats.pearsonr(x, gains.mean(axis=0)).statistic)


def test_what_cannot_be_computed_is_none():
    x, gains = planted(n=8, runs=2)
    assert correlation(x[:4], gains[:, :4]) is None
    assert correlation(np.ones(8), gains) is None
    assert correlation(x, np.ones((2, 8))) is None
    assert regression({"x": x, "y": x**2}, gains) is None  # 8 clients for 2 predictors
    x, gains = planted(n=30)
    assert regression({"x": x, "twice": 2 * x}, gains) is None
    assert regression({"x": np.ones(30)}, gains) is None
    assert correlation(np.arange(8.0), np.arange(8.0)[None], FEW).interval == "none"  # rho is 1
    assert np.isnan(mean_rho(np.ones(5), np.arange(5.0)))


def test_the_detectable_rho_is_told_apart_four_times_of_five():
    rng, n, told = np.random.default_rng(0), 38, 0
    rho = detectable(n)
    pearson = 2 * np.sin(np.pi * rho / 6)
    for _ in range(400):
        x = rng.normal(size=n)
        told += stats.spearmanr(x, pearson * x + np.sqrt(1 - pearson**2) * rng.normal(size=n)).pvalue < 0.05
    assert 0.73 < told / 400 < 0.87
    assert detectable(4) is None
