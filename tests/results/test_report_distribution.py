"""The spread over clients, and who counts as better."""

from __future__ import annotations

import numpy as np
import pytest

from fedllm_bench.results.distribution import distribution, spread
from fedllm_bench.results.run_results import ScoreSet, metric_entry, metrics_of
from fedllm_bench.results.schema import QUANTILES
from fedllm_bench.results.sides import sides_of
from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, PERPLEXITY
from fedllm_bench.scores.score import MetricInfo, Score

LOSS = MetricInfo(name="heldout", version="1", unit="nats", higher_is_better=False, description="loss")


def scores(values: list[float | None]) -> list[Score]:
    """One item of each client."""
    return [Score("row", value, "" if value is not None else "no answer", cluster=f"c{i}")
            for i, value in enumerate(values)]  # fmt: skip


def of(before, after, *, estimator=MEAN_OVER_CLIENTS, higher=False) -> dict:
    return distribution(sides_of(scores(before), scores(after)), estimator=estimator, higher_is_better=higher)


def test_percentiles_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=747)
    found = spread(values)
    assert found.pop("n") == 747
    assert list(found.values()) == pytest.approx(np.percentile(values, [0, 10, 25, 50, 75, 90, 100]))


@pytest.mark.parametrize(("higher", "better", "worse"), [(False, 2, 1), (True, 1, 2)])
def test_better_is_lower_or_higher_as_the_metric_says(higher, better, worse):
    found = of([1.0, 2.0, 3.0], [0.5, 2.5, 1.0], higher=higher)
    assert (found["num_better"], found["num_worse"]) == (better, worse)
    assert found["share_better"] == pytest.approx(better / 3)
    assert found["difference"]["min"] == -2.0
    assert found["difference"]["max"] == 0.5


def test_a_client_who_stayed_at_the_base_is_neither_better_nor_worse_for_rounding():
    found = of([1.0, 1.0, 1e-6], [1.0 + 1e-6, 1.0 - 1e-6, 1e-6])
    assert (found["num_better"], found["num_worse"], found["share_better"]) == (0, 0, 0.0)


def test_a_client_without_a_pair_is_in_no_difference():
    found = of([1.0, None, 3.0], [0.5, 0.5, None])
    assert (found["after"]["n"], found["difference"]["n"]) == (2, 1)
    assert found["after"]["median"] == found["after"]["max"] == 0.5
    assert found["share_better"] == 1.0


def test_without_a_scored_item_everything_is_null():
    for empty in (of([], []), of([1.0, 2.0], []), of([None], [None])):
        assert empty["after"] == {**dict.fromkeys(QUANTILES), "n": 0}
        assert empty["difference"] == empty["after"]
        assert (empty["num_better"], empty["num_worse"], empty["share_better"]) == (0, 0, None)
    entry = metrics_of({"heldout": ScoreSet(before=[], after=[])}, {"heldout": LOSS})["heldout"]
    assert entry["distribution"]["after"]["n"] == entry["after"]["n"] == 0


def test_one_client_is_every_percentile():
    found = of([2.0], [1.0])
    assert set(found["after"].values()) == {1}
    assert {found["difference"][key] for key in QUANTILES} == {-1.0}


def test_a_perplexity_is_spread_on_its_own_scale():
    found = of([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], estimator=PERPLEXITY)
    assert found["after"]["median"] == pytest.approx(np.e)
    assert found["difference"]["max"] == pytest.approx(1 - np.e)
    assert found["num_better"] == 3


def test_a_value_beyond_all_numbers_is_null_and_its_client_still_counts():
    found = of([1.0, 2.0], [0.5, 800.0], estimator=PERPLEXITY)
    assert found["after"]["max"] is None
    assert (found["num_better"], found["num_worse"]) == (1, 1)


def test_the_spread_agrees_with_the_mean_of_the_entry():
    rng = np.random.default_rng(1)
    before, after = rng.normal(2, 1, size=(2, 25))
    entry = metric_entry(LOSS, ScoreSet(before=scores(before.tolist()), after=scores(after.tolist())))
    found = entry["distribution"]
    assert found["after"]["min"] <= entry["after"]["mean"] <= found["after"]["max"]
    assert found["num_better"] == int((after < before).sum())
    assert found["difference"]["median"] == pytest.approx(np.median(after - before))
