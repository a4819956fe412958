"""The signs of all pairs of a board at once are those of the intervals of one pair at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from board_entries import measure, table

from fedllm_bench.leaderboard.ranking.intervals import over_units
from fedllm_bench.leaderboard.ranking.relations import Compared, unit_signs

NAMES = ("heldout", "heldout_tokens", "heldout_worst_tenth", "perplexity", "mini_exact")


def rows(name, count, step, **options):
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.2, options.get("clients", 40))
    return [measure(name, table(rng, 1 + step * i, common=common, **{"clients": 40, **options})) for i in range(count)]


def by_pairs(measures):
    signs = np.zeros((len(measures), len(measures)), dtype=np.int8)
    for i, j in itertools.combinations(range(len(measures)), 2):
        found = over_units(measures[i], measures[j])
        signs[i, j] = np.sign(found.ci_low) if found.excludes_zero else 0
    return signs - signs.T


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"clients": 47}, {"seeds": 1}, {"clients": 31, "client_sd": 0.2}])
def test_signs_are_those_of_one_pair_at_a_time(name, options):
    measures = rows(name, 8, 0.03, **options)
    found = unit_signs(Compared(measures=measures))
    assert (found == by_pairs(measures)).all()
    assert np.count_nonzero(found) > 0


@pytest.mark.parametrize("name", ["heldout", "heldout_worst_tenth", "mini_exact"])
def test_rows_that_differ_by_a_constant_are_apart_only_where_the_scale_is_known(name):
    values = table(np.random.default_rng(1), 0.3, clients=40, client_sd=0.01)
    shifted = {seed: [v + 0.5 for v in of] for seed, of in values.items()}
    one, other = measure(name, values), measure(name, shifted)
    found = unit_signs(Compared(measures=[one, other, one]))
    assert (found == by_pairs([one, other, one])).all()
    assert found.any() == (name == "mini_exact")  # a share has two ends; a loss may be anything


def test_the_worst_tenth_of_30_clients_tells_nothing_apart():
    assert not unit_signs(Compared(measures=rows("heldout_worst_tenth", 4, 1.0, clients=30))).any()
    assert unit_signs(Compared(measures=rows("heldout_worst_tenth", 4, 1.0, clients=31))).any()
    assert not unit_signs(Compared(measures=rows("heldout_worst_tenth", 1, 1.0))).any()
