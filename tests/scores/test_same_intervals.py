"""The same scores have the same interval wherever it is shown: one run, a grid, a comparison, a report, a board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedllm_bench.comparison.compare import compare_models
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.comparison.run_scores import ScoredRun
from fedllm_bench.evaluation.scoring.estimates import ScoreRules, change, side_estimate
from fedllm_bench.evaluation.scoring.views import MEAN_OVER_QUESTIONS
from fedllm_bench.leaderboard.ranking.intervals import over_units
from fedllm_bench.leaderboard.ranking.measures import Measure, side_of
from fedllm_bench.results.run_results import ScoreSet, metric_entry
from fedllm_bench.scores.estimators import (
    MEAN_OVER_CLIENTS,
    MEAN_OVER_TOKENS,
    PERPLEXITY,
    worst_tenth,
)
from fedllm_bench.scores.score import SCALES, MetricInfo, Score
from fedllm_bench.scores.seeds import difference

NUMBERS = ("mean", "ci_low", "ci_high", "interval")
ESTIMATORS = [MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, PERPLEXITY, worst_tenth(higher_is_better=False)]


def losses(n, seed):
    rng = np.random.default_rng(seed)
    return [
        Score(f"i{i}", float(v), cluster=f"c{i:03d}", weight=float(w))
        for i, (v, w) in enumerate(zip(rng.gamma(4, 0.25, n), 1 + np.arange(n) % 7, strict=True))
    ]


def shares(n, seed, p):
    hits = np.random.default_rng(seed).random(n) < p
    return [Score(f"q{i}", float(hit), cluster=f"q{i}") for i, hit in enumerate(hits)]


def info(unit):
    return MetricInfo(name="m", version="1", unit=unit, higher_is_better=False, description="of a test")


def measure(scores, unit, estimator):
    return Measure(name="m", version="1", unit=unit, higher_is_better=False, estimator=estimator.description,
                   description="", judge="", unit_of_n="client", whole_only=False, scale=SCALES.get(unit),
                   seeds={0: side_of(scores)})  # fmt: skip


def compared(a, b, unit):
    runs = [
        ScoredRun(path=Path(name), config={}, measured={"m": MetricScores(scores=tuple(of), version="1", unit=unit,
                  higher_is_better=False, scale=SCALES.get(unit))})
        for name, of in (("a", a), ("b", b))
    ]  # fmt: skip
    return compare_models(*runs, ["m"])[0]


def same(*found):
    """All have the numbers of the first, which are those of an interval."""
    rows = [[each[key] if isinstance(each, dict) else getattr(each, key) for key in NUMBERS] for each in found]
    assert rows[0][1] is not None
    for row in rows[1:]:
        assert row[:3] == pytest.approx(rows[0][:3], rel=1e-12, abs=1e-12)
        assert row[3] == rows[0][3]


@pytest.mark.parametrize("n", [12, 38, 120])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.description)
def test_a_run_a_grid_and_a_board_agree(estimator, n):
    before, after, unit = losses(n, 0), losses(n, 1), "nats per token"
    entry = metric_entry(info(unit), ScoreSet(before=before, after=after), estimator=estimator)
    board = over_units(measure(after, unit, estimator))
    told = over_units(measure(after, unit, estimator), measure(before, unit, estimator))
    grid = difference(estimator, {0: after}, {0: before}, scale=SCALES.get(unit))
    if entry["difference"]["ci_low"] is None:
        assert (n, estimator.counts) == (12, "tail")
        assert board.ci_low is told.ci_low is grid["ci_low"] is None
        return
    same(entry["difference"], grid, told)
    assert entry["difference"]["detectable"] == pytest.approx(grid["detectable"])  # one seed: clients alone
    same(entry["after"], board)


@pytest.mark.parametrize(("before", "after"), [(0.5, 0.8), (0.9, 0.95), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("n", [6, 38, 120])
def test_shares_agree_in_a_run_a_grid_a_report_a_comparison_and_a_board(n, before, after):
    base, ours = shares(n, 0, before), shares(n, 1, after)
    entry = metric_entry(info("share"), ScoreSet(before=base, after=ours))
    rules = ScoreRules(low=0, high=1, min_coverage=1.0)
    same(
        entry["difference"],
        difference(MEAN_OVER_CLIENTS, {0: ours}, {0: base}, scale=SCALES["share"]),
        over_units(measure(ours, "share", MEAN_OVER_CLIENTS), measure(base, "share", MEAN_OVER_CLIENTS)),
        change(ours, base, MEAN_OVER_QUESTIONS, rules),
        compared(ours, base, "share"),
    )
    same(
        entry["after"],
        over_units(measure(ours, "share", MEAN_OVER_CLIENTS)),
        side_estimate(ours, MEAN_OVER_QUESTIONS, rules),
    )
    assert entry["difference"]["ci_low"] < entry["difference"]["ci_high"]
    assert entry["after"]["ci_low"] < entry["after"]["ci_high"]


def test_equal_ratings_are_not_significant_from_two_questions():
    base = [Score(f"q{i}", 6.0, cluster=f"q{i}") for i in range(2)]
    ours = [replace(score, value=7.0) for score in base]
    rules = ScoreRules(low=1, high=10, min_coverage=1.0)
    found = change(ours, base, MEAN_OVER_QUESTIONS, rules)
    assert (found.mean, found.interval, found.significant) == (1.0, "exact", False)
    assert (
        side_estimate(ours, MEAN_OVER_QUESTIONS, rules).ci_low
        < 7
        < side_estimate(ours, MEAN_OVER_QUESTIONS, rules).ci_high
    )
    one = change(ours[:1], base[:1], MEAN_OVER_QUESTIONS, rules)
    assert (one.interval, one.significant) == ("none", None)


@pytest.mark.parametrize("n", [2, 3, 19, 80])
def test_losses_that_all_fall_alike_have_no_interval_and_significance_is_null(n):
    before = [Score(f"i{i}", 1.0, cluster=f"c{i:03d}") for i in range(n)]
    after = [replace(score, value=0.5) for score in before]
    found = metric_entry(info("nats per token"), ScoreSet(before=before, after=after))["difference"]
    assert (found["mean"], found["ci_low"], found["significant"], found["detectable"]) == (-0.5, None, None, None)
    assert found["no_interval"] == f"all {n} values are equal, and how far others may lie is unknown"
    assert difference(MEAN_OVER_CLIENTS, {0: after}, {0: before})["verdict"] == "no interval"
