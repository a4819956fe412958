"""Means over clients, their intervals and what is never a number."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, PERPLEXITY, worst_tenth
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import ClusterMean, paired_clusters, paired_difference, per_cluster, summarise


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


def test_two_values_have_the_textbook_t_interval():
    summary = summarise(clusters([1.0, 3.0]))
    low, high = scipy_stats.t.interval(0.95, 1, loc=2.0, scale=1.0)
    assert (summary.interval, summary.n, summary.sd) == ("t_skew", 2, pytest.approx(math.sqrt(2)))
    assert [summary.mean, summary.ci_low, summary.ci_high] == pytest.approx([2.0, low, high])


def halls(values, z):
    """The limit of Hall's transformation at z, by a root of the cubic: T + b T^2 / 3 + b^2 T^3 / 27 + b / 6 = z."""
    n = len(values)
    b = float(scipy_stats.skew(values, bias=False)) / math.sqrt(n)
    found = optimize.brentq(lambda t: t + b * t**2 / 3 + b**2 * t**3 / 27 + b / 6 - z, -99, 99)
    return values.mean() - found * float(scipy_stats.sem(values))


@pytest.mark.parametrize("n", [4, 12, 38])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_is_students_t_widened_to_halls_limit_on_the_side_of_the_skew(n, sign):
    values = sign * np.random.default_rng(0).lognormal(size=n)
    t = scipy_stats.t.ppf(0.975, n - 1)
    limits = np.array([scipy_stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy_stats.sem(values)),
                       (halls(values, t), halls(values, -t))])  # fmt: skip
    found = summarise(clusters(values))
    assert [found.ci_low, found.ci_high] == pytest.approx([limits[:, 0].min(), limits[:, 1].max()], rel=1e-6)
    assert (limits[:, 1].argmax() if sign > 0 else limits[:, 0].argmin()) == 1  # Hall's decides where the skew is


def test_symmetric_values_have_students_t():
    values = scipy_stats.norm.ppf((np.arange(12) + 0.5) / 12)
    low, high = scipy_stats.t.interval(0.95, 11, loc=0, scale=scipy_stats.sem(values))
    found = summarise(clusters(values))
    assert [found.ci_low, found.ci_high] == pytest.approx([low, high])


def test_one_value_has_no_interval_and_the_reason_is_there():
    found = summarise(clusters([3.0]))
    assert (found.ci_low, found.ci_high, found.interval, found.sd) == (None, None, "none", None)
    assert found.no_interval == "one value does not show how much values vary"


def test_no_client_is_no_number():
    summary = summarise(per_cluster(scores({"a": [None, None]})))
    assert (summary.mean, summary.ci_low, summary.n, summary.n_scored) == (None, None, 0, 0)
    assert (summary.interval, summary.n_unscored) == ("none", 2)
    assert summarise({}).mean is None


def test_paired_intervals_are_narrower_than_unpaired_ones_when_clients_differ():
    rng = np.random.default_rng(2)
    base = rng.normal(size=38)
    before, after = clusters(base), clusters(base - 0.1 + 0.05 * rng.normal(size=38))
    difference = paired_difference(after, before)
    assert difference.excludes_zero
    assert difference.ci_high - difference.ci_low < 0.1 < (s := summarise(before)).ci_high - s.ci_low


def test_paired_difference_by_hand():
    a, b = clusters([1.0, 2.0, 6.0, 50.0]), clusters([0.0, 3.0, 3.0])
    difference = paired_difference(a, b)  # 1, -1, 3; the fourth client is in one side only
    half = 4.302653 * 2.0 / math.sqrt(3)
    assert (difference.n, difference.mean, difference.interval) == (3, 1.0, "t_skew")
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
        one, other = (summarise(per_cluster(x), estimator=estimator) for x in (items, shuffled))
        assert one == other


def test_mean_over_tokens_by_hand():
    items = [Score("a", 1.0, cluster="x", weight=30.0), Score("a", 4.0, cluster="y", weight=10.0)]
    assert summarise(per_cluster(items), estimator=MEAN_OVER_TOKENS).mean == pytest.approx(1.75)
    assert summarise(per_cluster(items)).mean == pytest.approx(2.5)


def test_mean_over_tokens_with_equal_weights_is_the_mean_over_clients():
    for n in (12, 38):
        values = clusters(np.random.default_rng(0).normal(size=n), [7.0] * n)
        tokens = summarise(values, estimator=MEAN_OVER_TOKENS)
        of_clients = summarise(values)
        for key, value in of_clients.to_dict().items():
            assert tokens.to_dict()[key] == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize("n", [12, 38])
def test_ratio_intervals_cover(n):
    rng, trials = np.random.default_rng(5), 250
    hits = 0
    for _ in range(trials):
        weights = rng.uniform(1, 10, size=n)
        found = summarise(clusters(weights / 5 + rng.normal(size=n), weights), estimator=MEAN_OVER_TOKENS)
        truth = (111 / 3 / 5) / 5.5  # E[w * w / 5] / E[w], with E[w * w] = (1 + 10 + 100) / 3
        hits += found.ci_low <= truth <= found.ci_high
    assert 0.90 <= hits / trials <= 0.985


@pytest.mark.parametrize("n", [12, 38])
def test_perplexity_is_the_exponentiated_mean_over_tokens(n):
    rng = np.random.default_rng(6)
    values = clusters(rng.normal(1, 0.3, size=n), rng.uniform(1, 10, size=n))
    loss = summarise(values, estimator=MEAN_OVER_TOKENS)
    shown = summarise(values, estimator=PERPLEXITY)
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
    high = summarise(values, estimator=worst_tenth(higher_is_better=False))
    low = summarise(values, estimator=worst_tenth(higher_is_better=True))
    assert (high.mean, low.mean) == (35.5, 1.5)
    assert high.ci_low < 35.5 < high.ci_high
    assert [37 - low.ci_high, 37 - low.ci_low] == pytest.approx([high.ci_low, high.ci_high])  # the mirror image
    beyond = np.array([0.5, 1.5, 2.5, 3.5]) * 38 / 4  # of the four clients above the edge, 33.5
    expected = [0.0] * 34 + beyond.tolist()
    assert high.sd == pytest.approx(np.std(expected, ddof=1))


@pytest.mark.parametrize("n", [2, 20, 30])
def test_worst_tenth_of_few_clients_has_no_interval_and_says_why(n):
    values = np.random.default_rng(0).normal(size=n)
    for found in (
        summarise(clusters(values), estimator=worst_tenth(higher_is_better=False)),
        paired_difference(clusters(values), clusters(values**2), estimator=worst_tenth(higher_is_better=False)),
    ):
        assert (found.interval, found.ci_low, found.excludes_zero) == ("none", None, None)
        assert found.no_interval == "no method gives a reliable one with fewer than 31 clients"


@pytest.mark.parametrize("n", [2, 3, 19, 20, 38, 80])
def test_equal_values_on_an_open_scale_have_no_interval_and_no_warning(n, recwarn):
    base = np.random.default_rng(0).normal(size=n)
    found = [
        paired_difference(clusters(base + 0.1), clusters(base)),
        paired_difference(clusters(base), clusters(base)),
        summarise(clusters([0.3] * n)),
        summarise(clusters([0.3] * n, np.arange(1, n + 1)), estimator=PERPLEXITY),
    ]
    for each in found:
        assert (each.ci_low, each.ci_high, each.interval, each.excludes_zero) == (None, None, "none", None)
        assert each.no_interval == f"all {n} values are equal, and how far others may lie is unknown"
    assert not recwarn.list


def test_equal_ratings_have_the_interval_of_their_scale():
    two = paired_difference(clusters([7.0, 7.0]), clusters([6.0, 6.0]), scale=(1, 10))
    elsewhere = 1 - math.sqrt(0.025)  # the share of other differences of which two would miss all in 2.5% of cases
    assert two.interval == "exact"
    assert [two.ci_low, two.ci_high] == pytest.approx([1 - 10 * elsewhere, 1 + 8 * elsewhere])
    assert two.excludes_zero is False
    many = paired_difference(clusters([7.0] * 80), clusters([6.0] * 80), scale=(1, 10))
    assert many.excludes_zero
    ceiling = summarise(clusters([10.0] * 80), scale=(1, 10))
    assert [ceiling.ci_low, ceiling.ci_high] == pytest.approx([10 - 9 * (1 - 0.025 ** (1 / 80)), 10])


@pytest.mark.parametrize(("value", "hits"), [(0.0, 0), (1.0, 6)])
def test_shares_of_all_or_none_have_the_interval_of_clopper_and_pearson(value, hits):
    expected = scipy_stats.binomtest(hits, 6).proportion_ci(0.95, method="exact")
    found = summarise(clusters([value] * 6), scale=(0.0, 1.0))
    assert found.interval == "exact"
    assert [found.ci_low, found.ci_high] == pytest.approx([expected.low, expected.high])


def test_the_interval_of_a_share_lies_between_clopper_pearsons_and_jeffreys():
    found = summarise(clusters([1.0] * 70 + [0.0] * 10), scale=(0.0, 1.0))
    exact = scipy_stats.binomtest(70, 80).proportion_ci(0.95, method="exact")
    jeffreys = scipy_stats.beta(70.5, 10.5).ppf([0.025, 0.975])
    assert (found.interval, found.mean) == ("share", 0.875)
    assert [found.ci_low, found.ci_high] == pytest.approx(
        [(exact.low + jeffreys[0]) / 2, (exact.high + jeffreys[1]) / 2]
    )


def test_a_share_counts_clients_where_their_items_agree_and_items_where_they_do_not():
    def width(shares):
        values = {
            f"c{i}": ClusterMean(mean=share, weight=1.0, n_scored=10, n_unscored=0) for i, share in enumerate(shares)
        }
        found = summarise(values, scale=(0.0, 1.0))
        assert (found.interval, found.mean) == ("share", pytest.approx(0.5))
        return found.ci_high - found.ci_low

    def binomial(n):
        found = summarise(clusters([0.0, 1.0] * (n // 2)), scale=(0.0, 1.0))
        return found.ci_high - found.ci_low

    assert width([0.0, 1.0] * 10) == pytest.approx(binomial(20))
    assert width([0.5] * 20) == pytest.approx(binomial(200))


def test_a_share_of_a_few_heavy_clients_covers():
    rng = np.random.default_rng(0)

    def holds_the_truth() -> bool:
        items = np.where(rng.random(20) < 0.1, 200, 1)
        hits = rng.binomial(items, rng.beta(1, 19, 20))
        values = {
            f"c{i:02}": ClusterMean(mean=h / k, weight=float(k), n_scored=int(k), n_unscored=0)
            for i, (h, k) in enumerate(zip(hits, items, strict=True))
        }
        found = summarise(values, estimator=MEAN_OVER_TOKENS, scale=(0.0, 1.0))
        return found.ci_low <= 0.05 <= found.ci_high

    assert np.mean([holds_the_truth() for _ in range(400)]) > 0.92  # 74% where such clients count as 20


@pytest.mark.parametrize("hit", [0.0, 1.0])
def test_a_share_of_far_less_than_one_hit_is_within_its_interval(hit):
    heavy = [ClusterMean(mean=1 - hit, weight=1e6, n_scored=1, n_unscored=0) for _ in range(9)]
    light = ClusterMean(mean=hit, weight=1e-2, n_scored=1, n_unscored=0)
    found = summarise(dict(zip("abcdefghij", [light, *heavy], strict=True)), estimator=MEAN_OVER_TOKENS, scale=(0, 1))
    assert found.interval == "share"
    assert 0 <= found.ci_low <= found.mean <= found.ci_high <= 1


def test_values_between_0_and_1_that_are_no_shares_of_items_have_students_t_within_the_ends():
    values = [0.5, 1.0, 0.0, 1.0, 1.0, 0.5]  # of pairs: a tie is a half
    found = summarise(clusters(values), scale=(0.0, 1.0))
    assert (found.interval, found.ci_high) == ("t_skew", 1.0)
    assert summarise(clusters(values)).ci_high > 1
