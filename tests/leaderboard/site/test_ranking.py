"""Who is clearly better, and what ranks follow: by hand, and against scipy one pair at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from board_entries import measure, scores, table
from scipy import stats

from fedllm_bench.leaderboard.ranking.intervals import over_units
from fedllm_bench.leaderboard.ranking.ranking import bands, borda, closed, overall
from fedllm_bench.leaderboard.ranking.relations import Compared, clearly_better, seed_signs, unit_signs
from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, worst_tenth
from fedllm_bench.scores.seeds import difference, over_seeds, verdict


def signs(*pairs, rows):
    """From (better, worse) pairs."""
    found = np.zeros((rows, rows), dtype=np.int8)
    for better, worse in pairs:
        found[better, worse], found[worse, better] = 1, -1
    return found


def compared(*tables, name="mini_exact"):
    return Compared(measures=[measure(name, of) for of in tables])


def many(rows, *, seed=0, **options):
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.2, 30)
    return [table(rng, 0.5 + 0.02 * i, common=common, **options) for i in range(rows)]


# --- bands and points by hand


def test_bands_by_hand():
    """a clearly over c, and nothing else: a is 1 or 2, b anything, c 2 or 3."""
    assert bands(signs((0, 2), rows=3)) == [(1, 2), (1, 3), (2, 3)]
    assert bands(signs((0, 1), (0, 2), (1, 2), rows=3)) == [(1, 1), (2, 2), (3, 3)]
    assert bands(signs(rows=4)) == [(1, 4)] * 4


def test_what_follows_from_two_comparisons_is_added():
    assert bands(closed(signs((0, 1), (1, 2), rows=3))) == [(1, 1), (2, 2), (3, 3)]


def test_rows_in_a_circle_cannot_be_told_apart():
    assert bands(closed(signs((0, 1), (1, 2), (2, 0), rows=3))) == [(1, 3)] * 3


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_cannot_be_told_apart_share_a_rank(seed):
    rng = np.random.default_rng(seed)
    random = np.triu(rng.integers(-1, 2, (8, 8)), 1).astype(np.int8)
    found = closed(random - random.T)
    places = bands(found)
    alike = [(a, b) for a, b in itertools.combinations(range(8), 2) if found[a, b] == 0]
    assert all(max(places[a][0], places[b][0]) <= min(places[a][1], places[b][1]) for a, b in alike)
    apart = [(a, b) for a, b in itertools.permutations(range(8), 2) if found[a, b] > 0]
    assert all(places[a][0] < places[b][0] and places[a][1] < places[b][1] for a, b in apart)
    assert len(alike) + len(apart) == 28


def test_borda_by_hand():
    """Two metrics, three rows: 1 a win, 1/2 where not told apart."""
    of = [signs((0, 1), (0, 2), rows=3), signs((1, 0), rows=3)]
    assert borda(of) == [2 + 0.5, 0.5 + 1.5, 0.5 + 1.0]
    assert sum(borda(of)) == 2 * 3  # each pair and metric gives one point away


def test_one_metric_ranks_as_it_does_alone_and_opposed_ones_cancel():
    one = closed(signs((0, 1), (1, 2), rows=3))
    assert (overall([one]) == one).all()
    assert (overall([one, -one]) == 0).all()
    assert (overall([one, one, -one]) == one).all()


# --- who is clearly better


def test_seeds_equal_scipys_paired_t_one_pair_at_a_time():
    tables = many(7)
    found = seed_signs(compared(*tables))
    means = [[np.mean(of[seed]) for seed in of] for of in tables]
    for i, j in itertools.permutations(range(7), 2):
        t = stats.ttest_rel(means[i], means[j])
        assert found[i, j] == (np.sign(t.statistic) if t.pvalue < 0.05 else 0)
    assert 0 < np.count_nonzero(found) < 42


def test_seeds_that_are_not_shared_equal_scipys_welch():
    tables = many(6)
    shifted = [of if i % 2 else {seed + 10: v for seed, v in of.items()} for i, of in enumerate(tables)]
    found = seed_signs(compared(*shifted))
    means = [[np.mean(v) for v in of.values()] for of in shifted]
    pairs = [(i, j) for i, j in itertools.permutations(range(6), 2) if i % 2 != j % 2]
    for i, j in pairs:
        t = stats.ttest_ind(means[i], means[j], equal_var=False)
        assert found[i, j] == (np.sign(t.statistic) if t.pvalue < 0.05 else 0)
    assert any(found[i, j] for i, j in pairs)


def test_units_equal_scipys_paired_t_one_pair_at_a_time():
    tables = many(7, client_sd=0.1)
    found = unit_signs(compared(*tables))
    units = [np.mean([of[seed] for seed in of], axis=0) for of in tables]
    for i, j in itertools.permutations(range(7), 2):
        t = stats.ttest_rel(units[i], units[j])
        assert found[i, j] == (np.sign(t.statistic) if t.pvalue < 0.05 else 0)
    assert 0 < np.count_nonzero(found) < 42


def test_both_are_needed_and_below_20_clients_it_is_the_grids_verdict():
    rng = np.random.default_rng(1)
    tables = [table(rng, 0.5 + 0.03 * i, clients=12, client_sd=0.04) for i in range(6)]
    found = clearly_better(compared(*tables))
    for i, j in itertools.permutations(range(6), 2):
        ours, theirs = ({seed: scores(v) for seed, v in tables[k].items()} for k in (i, j))
        told = difference(MEAN_OVER_CLIENTS, ours, theirs)
        assert found[i, j] == (np.sign(told["mean"]) if told["verdict"] == "clear" else 0)
    assert 0 < np.count_nonzero(found) < 30


def test_lower_is_better_where_it_is():
    rng = np.random.default_rng(2)
    low, high = (table(rng, mean, seed_sd=0.001) for mean in (1.0, 2.0))
    assert clearly_better(compared(low, high, name="heldout"))[0, 1] == 1
    assert clearly_better(compared(low, high, name="mini_exact"))[0, 1] == -1


def test_an_exact_tie_and_a_constant_shift_are_not_told_apart():
    of = many(1)[0]
    shifted = {seed: [v + 0.25 for v in values] for seed, values in of.items()}
    assert not clearly_better(compared(of, of)).any()
    assert not clearly_better(compared(of, shifted)).any()


def test_one_seed_or_one_client_tells_nothing_apart():
    assert not clearly_better(compared(*({0: of[0]} for of in many(3)))).any()
    assert not clearly_better(compared(*({s: v[:1] for s, v in of.items()} for of in many(3)))).any()


def test_the_worst_tenth_is_clear_only_where_its_interval_says_so():
    rng = np.random.default_rng(3)
    tables = [table(rng, mean, seed_sd=0.01, clients=40) for mean in (1.0, 1.02, 1.5)]
    found = clearly_better(compared(*tables, name="heldout_worst_tenth"))
    for i, j in itertools.permutations(range(3), 2):
        ours, theirs = (measure("heldout_worst_tenth", tables[k]) for k in (i, j))
        told = over_units(ours, theirs)
        seeds = over_seeds(by_seed(tables[i], tables[j]))
        assert found[i, j] == (-np.sign(told.mean) if verdict(told, seeds) == "clear" else 0)
    assert found[0, 2] == 1
    few = [{seed: v[:30] for seed, v in of.items()} for of in tables]
    assert not clearly_better(compared(*few, name="heldout_worst_tenth")).any()


def by_seed(ours, theirs):
    return {seed: np.sort(ours[seed])[-3:].mean() - np.sort(theirs[seed])[-3:].mean() for seed in ours}


# --- intervals over units


@pytest.mark.parametrize("name", ["mini_exact", "heldout_worst_tenth"])
@pytest.mark.parametrize("clients", [12, 30])
def test_a_difference_equals_that_of_the_grid(name, clients):
    a, b = (table(np.random.default_rng(seed), 1.0, clients=clients) for seed in (4, 5))
    how = worst_tenth(higher_is_better=False) if name == "heldout_worst_tenth" else MEAN_OVER_CLIENTS
    ours, theirs = ({seed: scores(v) for seed, v in of.items()} for of in (a, b))
    expected = difference(how, ours, theirs)
    found = over_units(measure(name, a), measure(name, b))
    for key in ("mean", "ci_low", "ci_high"):
        assert getattr(found, key) == (None if expected[key] is None else pytest.approx(expected[key], rel=1e-12))
    assert (found.interval, found.n, found.n_scored) == tuple(expected[k] for k in ("interval", "n", "n_scored"))
