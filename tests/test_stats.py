"""Means over clients, their intervals and what is never a number."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fedllm_bench.metrics.base import Score
from fedllm_bench.metrics.stats import (
    MEAN_OVER_CLIENTS,
    MEAN_OVER_TOKENS,
    PERPLEXITY,
    ClusterMean,
    Resampling,
    paired_clusters,
    paired_difference,
    per_cluster,
    summarise,
    worst_tenth,
)

FEW = Resampling(samples=500)


def clusters(values, weights=None) -> dict[str, ClusterMean]:
    weights = [1.0] * len(values) if weights is None else weights
    return {
        f"c{i:03d}": ClusterMean(mean=float(v), weight=float(w), n_scored=1, n_unscored=0)
        for i, (v, w) in enumerate(zip(values, weights, strict=True))
    }


def scores(values: dict[str, list[float | None]], weight: float = 1.0) -> list[Score]:
    return [
        Score(f"i{i}", value, "" if value is not None else "no answer", cluster=client, weight=weight)
        for client, row in values.items()
        for i, value in enumerate(row)
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_unscored_and_says_why(value):
    score = Score("i", value)
    assert score.value is None
    assert str(value) in score.reason


def test_a_score_without_value_needs_a_reason():
    with pytest.raises(ValueError, match="reason"):
        Score("i", None)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_impossible_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        Score("i", 1.0, weight=weight)


def test_scores_survive_json():
    score = Score("i", 0.5, evidence={"reply": "né"}, cluster="c", group={"task": "facts"}, weight=7.0)
    unscored = Score("j", None, "no rating in the judge's reply")
    for each in (score, unscored):
        assert Score.from_dict(json.loads(json.dumps(each.to_dict()))) == each


def test_client_means_are_weighted_and_count_the_unscored():
    items = [Score("a", 1.0, cluster="x", weight=3.0), Score("b", 5.0, cluster="x", weight=1.0)]
    items += [Score("c", None, "empty", cluster="x"), Score("d", 9.0, cluster="x", weight=0.0)]
    items += [Score("a", None, "empty", cluster="w")]
    means = per_cluster(items)
    assert list(means) == ["w", "x"]
    assert means["x"] == ClusterMean(mean=2.0, weight=4.0, n_scored=2, n_unscored=2)
    assert means["w"] == ClusterMean(mean=None, weight=0.0, n_scored=0, n_unscored=1)


def test_small_samples_have_the_textbook_t_interval():
    values = np.random.default_rng(0).normal(size=12)
    summary = summarise(clusters(values))
    low, high = scipy_stats.t.interval(0.95, 11, loc=values.mean(), scale=scipy_stats.sem(values))
    assert (summary.interval, summary.n) == ("t", 12)
    assert [summary.mean, summary.ci_low, summary.ci_high] == pytest.approx([values.mean(), low, high])


def test_large_samples_have_the_bca_interval_of_scipy():
    values = np.random.default_rng(0).exponential(size=38)
    summary = summarise(clusters(values), resampling=Resampling(seed=3, samples=2000))
    expected = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    assert summary.interval == "bootstrap"
    assert [summary.ci_low, summary.ci_high] == pytest.approx([expected.low, expected.high])


@pytest.mark.parametrize(("n", "kind"), [(1, "none"), (2, "t"), (19, "t"), (20, "bootstrap")])
def test_the_number_of_clients_chooses_the_interval(n, kind):
    summary = summarise(clusters(np.arange(n)), resampling=FEW)
    assert summary.interval == kind
    assert (summary.ci_low is None) == (summary.ci_high is None) == (kind == "none")


def test_no_client_is_no_number():
    summary = summarise(per_cluster(scores({"a": [None, None]})))
    assert (summary.mean, summary.ci_low, summary.n, summary.n_scored) == (None, None, 0, 0)
    assert (summary.interval, summary.n_unscored) == ("none", 2)
    assert summarise({}).mean is None


@pytest.mark.parametrize(("n", "interval"), [(12, "t"), (38, "bootstrap")])
def test_intervals_of_normal_data_cover_near_95_percent(n, interval):
    rng, trials = np.random.default_rng(1), 400
    found = [summarise(clusters(rng.normal(size=n)), resampling=FEW) for _ in range(trials)]
    assert {summary.interval for summary in found} == {interval}
    covered = sum(summary.ci_low <= 0 <= summary.ci_high for summary in found) / trials
    assert 0.92 <= covered <= 0.98  # 0.95 has a standard error of 0.011 here


def test_paired_intervals_are_narrower_than_unpaired_ones_when_clients_differ():
    rng = np.random.default_rng(2)
    base = rng.normal(size=38)
    before, after = clusters(base), clusters(base - 0.1 + 0.05 * rng.normal(size=38))
    difference = paired_difference(after, before, resampling=FEW)
    assert difference.excludes_zero
    assert difference.ci_high - difference.ci_low < 0.1 < (s := summarise(before, resampling=FEW)).ci_high - s.ci_low


def test_paired_difference_by_hand():
    a, b = clusters([1.0, 2.0, 6.0, 50.0]), clusters([0.0, 3.0, 3.0])
    difference = paired_difference(a, b)  # 1, -1, 3; the fourth client is in one side only
    half = 4.302653 * 2.0 / math.sqrt(3)
    assert (difference.n, difference.mean, difference.interval) == (3, 1.0, "t")
    assert [difference.ci_low, difference.ci_high] == pytest.approx([1 - half, 1 + half], rel=1e-6)
    assert difference.excludes_zero is False


def test_paired_difference_of_one_client_has_no_verdict():
    assert paired_difference(clusters([1.0]), clusters([0.0])).excludes_zero is None


def test_pairs_are_the_items_scored_on_both_sides():
    after = scores({"a": [1.0, None, 0.0], "b": [1.0, 1.0], "only after": [0.0]})
    before = scores({"a": [0.0, 0.0, None], "b": [0.0, 1.0]})
    x, y = paired_clusters(after, before)
    assert list(x) == list(y) == ["a", "b"]
    assert (x["a"].mean, y["a"].mean, x["a"].n_scored, x["a"].n_unscored) == (1.0, 0.0, 1, 2)
    difference = paired_difference(x, y)
    assert (difference.mean, difference.n_scored, difference.n_unscored) == (0.75, 3, 2)


def test_two_scores_for_one_item_are_refused():
    twice = [Score("i", 1.0, cluster="a"), Score("i", 0.0, cluster="a")]
    with pytest.raises(ValueError, match="two scores for item 'i'"):
        paired_clusters(twice, twice)


@pytest.mark.parametrize("n", [12, 38])
def test_order_of_scores_does_not_matter(n):
    rng = np.random.default_rng(4)
    items = scores({f"c{i}": list(rng.normal(size=3)) for i in range(n)})
    shuffled = random.Random(0).sample(items, len(items))
    for estimator in (MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, worst_tenth(higher_is_better=False)):
        one, other = (summarise(per_cluster(x), estimator=estimator, resampling=FEW) for x in (items, shuffled))
        assert one == other


def test_the_seed_decides_the_bootstrap():
    values = clusters(np.random.default_rng(0).normal(size=38))
    assert summarise(values, resampling=FEW) == summarise(values, resampling=FEW)
    assert summarise(values, resampling=FEW) != summarise(values, resampling=Resampling(seed=1, samples=500))


def test_mean_over_tokens_by_hand():
    items = [Score("a", 1.0, cluster="x", weight=30.0), Score("a", 4.0, cluster="y", weight=10.0)]
    assert summarise(per_cluster(items), estimator=MEAN_OVER_TOKENS).mean == pytest.approx(1.75)
    assert summarise(per_cluster(items)).mean == pytest.approx(2.5)


def test_mean_over_tokens_with_equal_weights_is_the_mean_over_clients():
    for n in (12, 38):
        values = clusters(np.random.default_rng(0).normal(size=n), [7.0] * n)
        tokens = summarise(values, estimator=MEAN_OVER_TOKENS, resampling=FEW)
        of_clients = summarise(values, resampling=FEW)
        for key, value in of_clients.to_dict().items():
            assert tokens.to_dict()[key] == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("n", [12, 38])
def test_ratio_intervals_cover(n):
    rng, trials = np.random.default_rng(5), 250
    hits = 0
    for _ in range(trials):
        weights = rng.uniform(1, 10, size=n)
        found = summarise(
            clusters(weights / 5 + rng.normal(size=n), weights), estimator=MEAN_OVER_TOKENS, resampling=FEW
        )
        truth = (111 / 3 / 5) / 5.5  # E[w * w / 5] / E[w], with E[w * w] = (1 + 10 + 100) / 3
        hits += found.ci_low <= truth <= found.ci_high
    assert 0.90 <= hits / trials <= 0.985


@pytest.mark.parametrize("n", [12, 38])
def test_perplexity_is_the_exponentiated_mean_over_tokens(n):
    rng = np.random.default_rng(6)
    values = clusters(rng.normal(1, 0.3, size=n), rng.uniform(1, 10, size=n))
    loss = summarise(values, estimator=MEAN_OVER_TOKENS, resampling=FEW)
    shown = summarise(values, estimator=PERPLEXITY, resampling=FEW)
    expected = [math.exp(x) for x in (loss.mean, loss.ci_low, loss.ci_high)]
    assert [shown.mean, shown.ci_low, shown.ci_high] == pytest.approx(expected)


def test_paired_perplexity_is_a_difference_of_perplexities():
    a, b = clusters([1.0, 1.0, 1.0]), clusters([2.0, 2.0, 2.0])
    assert paired_difference(a, b, estimator=PERPLEXITY).mean == pytest.approx(math.e - math.e**2)


def test_a_perplexity_beyond_floats_is_no_number():
    summary = summarise(clusters([800.0, 900.0, 1000.0]), estimator=PERPLEXITY)
    assert (summary.mean, summary.ci_low, summary.ci_high, summary.interval) == (None, None, None, "none")
    both = clusters([800.0, 900.0, 1000.0])
    assert paired_difference(both, both, estimator=PERPLEXITY).mean is None


def test_worst_tenth_by_hand():
    values = clusters(np.arange(38.0))  # ceil(3.8) = 4 clients
    high = summarise(values, estimator=worst_tenth(higher_is_better=False), resampling=FEW)
    low = summarise(values, estimator=worst_tenth(higher_is_better=True), resampling=FEW)
    assert (high.mean, low.mean) == (35.5, 1.5)
    assert high.interval == "bootstrap"
    assert high.ci_low < 35.5 <= high.ci_high <= 37


def test_worst_tenth_of_few_clients_has_no_interval():
    summary = summarise(clusters([1.0, 5.0, 2.0]), estimator=worst_tenth(higher_is_better=False))
    assert (summary.mean, summary.interval) == (5.0, "none")


@pytest.mark.parametrize("n", [12, 38])
def test_equal_clients_have_an_interval_of_width_zero_and_no_warning(n, recwarn):
    base = np.random.default_rng(0).normal(size=n)
    difference = paired_difference(clusters(base + 0.1), clusters(base), resampling=FEW)
    assert [difference.ci_low, difference.ci_high] == pytest.approx([0.1, 0.1])
    unchanged = paired_difference(clusters(base), clusters(base), resampling=FEW)
    assert (unchanged.mean, unchanged.ci_low, unchanged.ci_high, unchanged.excludes_zero) == (0, 0, 0, False)
    assert not recwarn.list
