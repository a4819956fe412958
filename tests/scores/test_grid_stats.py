"""Differences over clients and seeds: by hand, against scipy, and how often equal methods are told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fedllm_bench.scores import power
from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, PERPLEXITY, worst_tenth
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.seeds import difference, over_seeds, point, verdict
from fedllm_bench.scores.summaries import Summary, paired_clusters, paired_difference, per_cluster, summarise

WORST = worst_tenth(higher_is_better=False)


def scores(clients: Mapping[str, Sequence[float | None]], weight: float = 1.0) -> list[Score]:
    """Items of clients; None is unscored."""
    return [
        Score(f"i{i}", value, "" if value is not None else "empty", cluster=client, weight=weight)
        for client, values in clients.items()
        for i, value in enumerate(values)
    ]


def one_item(values: Sequence[float], weight: float = 1.0) -> list[Score]:
    return scores({f"c{i:03d}": [float(value)] for i, value in enumerate(values)}, weight)


OURS = {0: one_item([1, 0, 5]), 1: one_item([4, 3, 9])}
THEIRS = {0: one_item([0, 0, 0]), 1: one_item([1, 1, 2])}  # differences 1, 0, 5 and 3, 2, 7


def test_both_intervals_by_hand():
    found = difference(MEAN_OVER_CLIENTS, OURS, THEIRS)
    over_clients = 4.302653 * math.sqrt(7 / 3)  # of 2, 1, 6: t with 2 degrees of freedom, variance 7
    assert (found["mean"], found["n"], found["interval"], found["n_scored"]) == (3.0, 3, "t_skew", 6)
    assert found["ci_low"] == pytest.approx(3 - over_clients, rel=1e-6)
    assert found["ci_high"] > 3 + over_clients  # 6 lies far above 1 and 2: widened on that side
    assert found["detectable"] == pytest.approx(math.sqrt(2) * power.detectable(2))  # of the seeds, which need more
    seeds = found["seeds"]
    assert (seeds["mean"], seeds["n"], seeds["values"]) == (3.0, 2, {"0": 2.0, "1": 4.0})
    assert [seeds["ci_low"], seeds["ci_high"]] == pytest.approx([3 - 12.706205, 3 + 12.706205], rel=1e-6)
    assert found["verdict"] == "not distinguishable"


def test_the_interval_over_clients_is_that_of_the_clients_means_over_seeds():
    rng = np.random.default_rng(0)
    ours, theirs = rng.exponential(size=(3, 38)), rng.exponential(size=(3, 38))
    found = difference(
        MEAN_OVER_CLIENTS,
        {seed: one_item(row) for seed, row in enumerate(ours)},
        {seed: one_item(row) for seed, row in enumerate(theirs)},
    )
    of_clients = (ours - theirs).mean(axis=0)
    expected = summarise(per_cluster(one_item(of_clients)))
    keys = ("mean", "ci_low", "ci_high", "interval", "sd")
    for key in keys:
        assert found[key] == (pytest.approx(value) if isinstance(value := getattr(expected, key), float) else value)
    of_seeds = (ours - theirs).mean(axis=1)
    low, high = scipy_stats.t.interval(0.95, 2, loc=of_seeds.mean(), scale=scipy_stats.sem(of_seeds))
    assert [found["seeds"][key] for key in ("mean", "ci_low", "ci_high")] == pytest.approx([of_seeds.mean(), low, high])
    needed = [power.detectable(38) * of_clients.std(ddof=1), power.detectable(3) * of_seeds.std(ddof=1)]
    assert found["detectable"] == pytest.approx(max(needed))


def test_equal_seeds_have_no_interval_and_no_verdict():
    found = over_seeds({0: 0.2, 1: 0.2, 2: 0.2})
    assert (found["mean"], found["sd"], found["ci_low"], found["ci_high"]) == (pytest.approx(0.2), 0.0, None, None)


@pytest.mark.parametrize("estimator", [MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, PERPLEXITY, WORST])
@pytest.mark.parametrize("n", [12, 38])
def test_one_seed_is_the_paired_difference_of_a_run(estimator, n):
    rng = np.random.default_rng(1)
    a, b = one_item(rng.normal(size=n)), one_item(rng.normal(size=n))
    found = difference(estimator, {7: a}, {7: b})
    expected = paired_difference(*paired_clusters(a, b), estimator=estimator).to_dict()
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["seeds"]["values"] == {"7": pytest.approx(expected["mean"])}
    assert (found["seeds"]["n"], found["seeds"]["ci_low"]) == (1, None)


@pytest.mark.parametrize("n", [12, 38])
def test_other_estimators_reduce_to_the_mean_over_clients_where_weights_are_equal(n):
    rng = np.random.default_rng(2)
    ours, theirs = ({seed: one_item(rng.normal(size=n), 7.0) for seed in range(3)} for _ in range(2))
    tokens = difference(MEAN_OVER_TOKENS, ours, theirs)
    clients = difference(MEAN_OVER_CLIENTS, ours, theirs)
    for key in ("mean", "ci_low", "ci_high", "n", "n_scored", "interval", "verdict"):
        assert tokens[key] == (pytest.approx(clients[key]) if isinstance(clients[key], float) else clients[key])


@pytest.mark.parametrize("estimator", [PERPLEXITY, WORST])
def test_a_difference_is_the_mean_over_seeds_of_the_shown_ones(estimator):
    rng = np.random.default_rng(3)
    ours, theirs = ({seed: one_item(rng.normal(size=40)) for seed in range(3)} for _ in range(2))
    found = difference(estimator, ours, theirs)
    shown = [point(estimator, per_cluster(ours[s])) - point(estimator, per_cluster(theirs[s])) for s in range(3)]
    assert found["mean"] == pytest.approx(np.mean(shown))
    assert list(found["seeds"]["values"].values()) == pytest.approx(shown)
    assert found["ci_low"] < found["mean"] < found["ci_high"]


def test_only_clients_and_seeds_of_both_sides_are_paired():
    ours = {0: scores({"a": [2.0], "b": [3.0]}), 1: scores({"a": [4.0], "b": [5.0]}), 2: scores({"a": [9.0]})}
    theirs = {0: scores({"a": [1.0], "x": [0.0]}), 1: scores({"a": [1.0], "b": [1.0]})}
    found = difference(MEAN_OVER_CLIENTS, ours, theirs)
    assert (found["n"], found["mean"]) == (2, 3.0)  # a: 1 and 3, so 2; b: 4 in the one seed that has it
    assert found["seeds"]["values"] == {"0": 1.0, "1": 3.5}
    everywhere = difference(MEAN_OVER_TOKENS, ours, theirs)
    assert (everywhere["n"], everywhere["mean"]) == (1, 2.0)  # only a is scored in both seeds


def test_unscored_items_are_counted_and_are_no_numbers():
    ours = {0: scores({"a": [1.0, None], "b": [None]}), 1: scores({"a": [1.0, 2.0], "b": [None]})}
    theirs = {0: scores({"a": [0.0, 9.0], "b": [1.0]}), 1: scores({"a": [0.0, 1.0], "b": [1.0]})}
    for estimator in (MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS):
        found = difference(estimator, ours, theirs)
        assert (found["mean"], found["n"], found["n_scored"], found["n_unscored"]) == (1.0, 1, 3, 3)
        assert (found["interval"], found["verdict"]) == ("none", "no interval")


def test_nothing_in_common_is_no_number():
    for theirs in ({1: one_item([1.0])}, {0: scores({"other": [1.0]})}):
        for estimator in (MEAN_OVER_CLIENTS, WORST):
            found = difference(estimator, {0: one_item([1.0])}, theirs)
            assert (found["mean"], found["ci_low"], found["n"], found["verdict"]) == (None, None, 0, "no interval")
            assert found["seeds"]["mean"] is None


def test_the_worst_tenth_of_few_clients_has_no_verdict():
    found = difference(WORST, OURS, THEIRS)
    assert (found["mean"], found["interval"], found["verdict"]) == (6.0, "none", "no interval")


def test_a_perplexity_beyond_floats_is_no_number_and_no_warning(recwarn):
    huge = {seed: one_item([800.0, 900.0, 1000.0]) for seed in range(2)}
    found = difference(PERPLEXITY, huge, huge)
    assert (found["mean"], found["verdict"], found["seeds"]["mean"]) == (None, "no interval", None)
    assert point(PERPLEXITY, per_cluster(huge[0])) is None
    assert not recwarn.list


@pytest.mark.parametrize(
    ("clients", "seeds", "expected"),
    [
        ((0.1, 0.3), [0.2, 0.21, 0.19], "clear"),
        ((-0.3, -0.1), [-0.2, -0.21], "clear"),
        ((0.1, 0.3), [0.0, 0.4], "not distinguishable"),
        ((-0.1, 0.3), [0.2, 0.2], "not distinguishable"),
        ((0.0, 0.0), [0.0, 0.0], "not distinguishable"),
        ((0.1, 0.3), [-0.2, -0.2], "no interval"),  # seeds without spread say nothing of others
        ((0.1, 0.3), [-0.2, -0.21], "not distinguishable"),  # unequal clients: the two disagree
        ((0.1, 0.3), [0.2], "clear"),  # one seed: only clients can tell
        ((None, None), [0.2, 0.2], "no interval"),
    ],
)
def test_clear_needs_both_intervals_on_one_side_of_zero(clients, seeds, expected):
    summary = Summary(mean=0.2, ci_low=clients[0], ci_high=clients[1], n=3, n_scored=3, n_unscored=0, interval="t")
    assert verdict(summary, over_seeds(dict(enumerate(seeds)))) == expected


def test_equal_methods_are_seldom_told_apart_though_seeds_move_all_clients_together():
    rng, trials, clear, clients_alone = np.random.default_rng(5), 300, 0, 0
    for _ in range(trials):
        noise = rng.normal(size=(3, 1)) + 0.5 * rng.normal(size=(3, 30))  # of a seed, and of a client in it
        ours = {seed: one_item(row) for seed, row in enumerate(noise)}
        found = difference(MEAN_OVER_CLIENTS, ours, {seed: one_item([0] * 30) for seed in ours})
        clear += found["verdict"] == "clear"
        clients_alone += not found["ci_low"] <= 0 <= found["ci_high"]
    assert clients_alone / trials > 0.5  # which is why seeds have an interval of their own
    assert clear / trials < 0.08  # 0.05 has a standard error of 0.013 here
