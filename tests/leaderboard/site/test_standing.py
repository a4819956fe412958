"""A board: numbers against pandas and scipy, who is ranked and why not, tests against FedAvg, alarms."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from board_entries import TRACK, entry, full, measure, table
from scipy import stats

from fedllm_bench.leaderboard.ranking import standing
from fedllm_bench.leaderboard.ranking.board import BoardEntry
from fedllm_bench.leaderboard.ranking.standing import board_of, board_version
from fedllm_bench.leaderboard.submission.tracks import find_track

METRICS = ("heldout", "mini_exact", "mini_choice")
MEANS = {"fedavg": 0.50, "fedprox": 0.505, "scaffold": 0.65, "poor": 0.30}


def entries(means=MEANS, *, seed=0, **options):
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.2, 30)
    return [entry(name, full(rng, mean, common=common, **options)) for name, mean in means.items()]


def board(found, **options):
    return board_of(found, TRACK, **options)


def row(found, method):
    (one,) = [row for row in found.rows if row.method == method]
    return one


@pytest.fixture(scope="module")
def plain():
    return board(entries())


def frame(found: list[BoardEntry]) -> pd.DataFrame:
    """A line for each row, metric, seed and client."""
    return pd.DataFrame(
        [
            (one.method, name, seed, client, cluster.mean)
            for one in found
            for name, of in one.measures.items()
            for seed, side in of.seeds.items()
            for client, cluster in side.clusters.items()
        ],
        columns=["method", "metric", "seed", "client", "value"],
    )


# --- numbers


def test_means_and_intervals_over_seeds_equal_pandas(plain):
    seeds = frame(entries()).groupby(["method", "metric", "seed"]).value.mean()
    grouped = seeds.groupby(["method", "metric"]).agg(["mean", "sem", "count"])
    assert len(grouped) == 4 * 3
    for (method, name), told in grouped.iterrows():
        cell = row(plain, method).cells[name]
        half = stats.t.ppf(0.975, told["count"] - 1) * told["sem"]
        assert cell.mean == pytest.approx(told["mean"])
        assert (cell.method.low, cell.method.high) == pytest.approx((told["mean"] - half, told["mean"] + half))
        assert (cell.method.of, cell.method.n, cell.models.of, cell.models.n) == ("method", 3, "models", 30)
        assert cell.by_seed == pytest.approx({str(s): v for s, v in seeds[method, name].items()})


def test_intervals_of_these_models_are_over_clients(plain):
    units = frame(entries()).groupby(["method", "metric", "client"]).value.mean()
    for (method, name), values in units.groupby(["method", "metric"]):
        cell = row(plain, method).cells[name]
        low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
        assert (cell.models.low, cell.models.high) == pytest.approx((low, high), abs=0.1 * (high - low))
        assert cell.models.low <= low + 1e-12
        assert cell.models.high >= high - 1e-12
        assert cell.models.kind == "t_skew"


def test_the_test_against_fedavg_equals_scipy_with_holms_correction(plain):
    seeds = frame(entries()).groupby(["method", "metric", "seed"]).value.mean()
    p = {
        (method, name): stats.ttest_rel(seeds[method, name], seeds["fedavg", name]).pvalue
        for method in MEANS
        if method != "fedavg"
        for name in METRICS
    }
    adjusted, largest = {}, 0.0
    for place, key in enumerate(sorted(p, key=p.get)):
        largest = max(largest, min(1.0, (len(p) - place) * p[key]))
        adjusted[key] = largest
    for (method, name), value in p.items():
        against = row(plain, method).cells[name].against
        assert against.p_value == pytest.approx(value)
        assert against.p_holm == pytest.approx(adjusted[method, name])
        better = (against.mean > 0) == (name != "heldout")
        assert against.verdict == (
            "not told apart" if adjusted[method, name] >= 0.05 else "better" if better else "worse"
        )
    assert {row(plain, "scaffold").cells[name].against.verdict for name in METRICS} == {"better"}
    assert {row(plain, "poor").cells[name].against.verdict for name in METRICS} == {"worse"}
    assert plain.baseline.endswith("fedavg")
    assert all(cell.against is None for cell in row(plain, "fedavg").cells.values())


def test_the_strongest_fedavg_is_the_baseline_whatever_others_call_themselves():
    rng = np.random.default_rng(0)
    strong = entry("FedAvg", full(rng, 0.5), made_by="fedavg", date="2026-12-31")
    weak = entry("fedavg", full(rng, 0.2, seeds=5), made_by="fedavg", date="2026-01-01")
    few = entry("fedavg 2", full(rng, 0.9, seeds=2), made_by="fedavg", date="2020-01-01")
    named = entry("fedavg 3", full(rng, 0.9), made_by="mine", date="2020-01-01")
    easy = {"heldout": measure("heldout", table(rng, 0.1), prefix="easy")}
    others = replace(entry("fedavg 4", easy), made_by="fedavg")
    assert board([weak, named, others, few, strong]).baseline == strong.slug
    assert board([named]).baseline == ""


def test_a_baseline_that_tracks_toml_names_stays_whatever_comes(monkeypatch):
    rng = np.random.default_rng(0)
    named = entry("FedAvg", full(rng, 0.2), made_by="fedavg")
    stronger = entry("a fedavg", full(rng, 0.5, seeds=9), made_by="fedavg", date="2001-01-01")
    assert board([named, stronger]).baseline == stronger.slug
    monkeypatch.setattr(standing, "pinned_baselines", lambda: {named.digest})
    assert board([named, stronger]).baseline == named.slug


def test_no_date_and_no_name_moves_a_row():
    """Rows that are equal in every number stand in the order of their digests."""
    found = entries()
    twins = [replace(found[2], slug=f"{day}_{name}", digest=digest * 64, method=name, team=name, date=day)
             for day, name, digest in (("2001-01-01", "a", "f"), ("2090-01-01", "z", "e"))]  # fmt: skip
    order = [one.digest[0] for one in board([*found, *twins]).rows if one.method in "az"]
    assert order == ["e", "f"]


# --- ranks


def test_bands_follow_who_is_clearly_better(plain):
    assert plain.rows[0].method == "scaffold"
    assert plain.rows[-1].method == "poor"
    bands = {one.method: (one.rank_low, one.rank_high) for one in plain.rows}
    assert bands == {"scaffold": (1, 1), "fedavg": (2, 3), "fedprox": (2, 3), "poor": (4, 4)}
    assert sum(one.borda for one in plain.rows) == 3 * 6


def test_an_exact_tie_shares_its_rank():
    found = entries()
    twin = replace(found[2], slug="2026-03-01_twin", method="twin", made_by="twin")
    told = board([*found, twin])
    ours, theirs = row(told, "scaffold"), row(told, "twin")  # on each metric three wins and half a point
    assert (
        (ours.rank_low, ours.rank_high, ours.borda) == (theirs.rank_low, theirs.rank_high, theirs.borda) == (1, 2, 10.5)
    )


def test_fewer_than_three_seeds_are_shown_and_not_ranked():
    few = entry("few", full(np.random.default_rng(9), 0.9, seeds=2))
    told = board([*entries(), few])
    assert (row(told, "few").unranked, row(told, "few").rank_low) == ("2 of at least 3 seeds", None)
    assert row(told, "few").cells["heldout"].mean is not None
    assert all(cell.rank_low is None for cell in row(told, "few").cells.values())
    assert row(told, "scaffold").rank_high == 1


def test_one_seed_has_no_interval_over_seeds_and_no_test():
    one = entry("one", full(np.random.default_rng(9), 0.9, seeds=1))
    cell = row(board([*entries(), one]), "one").cells["mini_exact"]
    assert (cell.method.low, cell.method.kind, cell.method.n) == (None, "none", 1)
    assert cell.models.low is not None
    assert (cell.against.p_value, cell.against.p_holm, cell.against.verdict) == (None, None, "no test")


def test_a_missing_metric_is_not_scored_and_never_a_number():
    found = entries()
    del found[2].measures["mini_choice"]
    told = row(board(found), "scaffold")
    assert (told.cells["mini_choice"].mean, told.cells["mini_choice"].reason) == (None, "not in the submission")
    assert (told.unranked, told.rank_low, told.borda) == ("mini_choice is not scored", None, None)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": "2"}, "version 2 of the metric, this board has 1"),
        ({"prefix": "other"}, "other items, or weights of items, than the board's"),
        ({"whole_only": True, "hole": True}, "not every question is scored"),
        ({"hole": True}, "other items, or weights of items, than the board's"),
    ],
)
def test_numbers_of_other_items_or_versions_are_not_on_the_board(changed, reason):
    found = entries()
    options = dict(changed)
    values = table(np.random.default_rng(0), 0.9)
    if options.pop("hole", False):
        values[1][3] = None
    found[2].measures["mini_exact"] = measure("mini_exact", values, **options)
    told = row(board(found), "scaffold")
    assert told.cells["mini_exact"].reason == reason
    assert told.unranked == "mini_exact is not scored"


def test_without_fedavg_the_items_of_most_rows_are_the_boards():
    found = entries({"a": 0.5, "b": 0.5, "c": 0.5})
    found[0].measures["mini_exact"] = measure("mini_exact", table(np.random.default_rng(0), 0.9), version="2")
    told = board(found)
    assert [one.method for one in told.rows if one.unranked] == ["a"]
    assert all(cell.against is None for one in told.rows for cell in one.cells.values())


# --- canaries


def test_canaries_are_shown_last_and_not_ranked():
    base = entry("base", full(np.random.default_rng(3), 0.1), kind="canary")
    told = board([*entries(), base])
    assert told.rows[-1].method == "base"
    assert (told.rows[-1].unranked, told.rows[-1].rank_low) == ("canary", None)
    assert told.rows[-2].rank_high == 4
    assert told.alarms == ()


def test_a_canary_above_the_median_method_is_an_alarm_and_central_is_none():
    rng = np.random.default_rng(3)
    random = entry("random adapter", full(rng, 0.58), kind="canary", made_by="")
    central = entry("central", full(rng, 0.9), kind="canary")
    told = board([*entries(), random, central])
    assert told.alarms == tuple(
        f"random adapter, which is no method, does better than the median method on {name}" for name in METRICS
    )
    assert board([*entries(), central]).alarms == ()
    assert board([random]).alarms == ()


# --- which board


def test_two_judges_are_two_boards():
    track = find_track("aya/fixed")
    rng = np.random.default_rng(0)
    of = {"heldout": measure("heldout", table(rng, 1.0))}
    judged = {f"ref_gpt4@{judge}": measure(f"ref_gpt4@{judge}", table(rng, 7.0)) for judge in ("one", "two")}
    found = [entry("fedavg", of | judged, track=track.id)]
    names = {judge: [c.name for c in board_of(found, track, judge=judge).columns] for judge in ("", "one", "two")}
    assert names == {"": ["heldout"], "one": ["heldout", "ref_gpt4@one"], "two": ["heldout", "ref_gpt4@two"]}


def test_another_split_is_another_version():
    assert board_version(TRACK, "0123456789") == "1-01234567"
    assert board_version(TRACK, "") == "1"


def test_a_board_is_json_and_does_not_hang_on_the_order_of_submissions(plain):
    text = json.dumps(plain.to_dict(), allow_nan=False)
    assert text == json.dumps(board(entries()[::-1]).to_dict(), allow_nan=False)
    assert json.loads(text)["id"] == "mini-aya_fixed_1-abababab"
    assert all(math.isfinite(cell.mean) for one in plain.rows for cell in one.cells.values())
