"""How often intervals hold the true value, in a few cells of benchmarks/coverage.py, and what is refused."""

from __future__ import annotations

import math

import pytest

from fedllm_bench.benchmarks.coverage import SIZES, coverage, main, table
from fedllm_bench.benchmarks.coverage_worlds import worlds

WORLDS = {world.name: world for world in worlds()}
DRAWS = 200
# name -> (clients, the share that the rule has in 20,000 draws or more than that)
CELLS = {
    "normal": (12, 0.955),
    "t with 3 degrees": (20, 0.955),
    "lognormal(1)": (38, 0.945),
    "85% ties, rest normal(1, 1)": (38, 0.95),
    "share 0.8, 1 to 10 items, correlation 0.3": (38, 0.95),
    "share 0.95, 1 to 10 items, correlation 0.3": (38, 0.95),
    "mean over tokens": (38, 0.95),
    "difference of worst tenths": (38, 0.955),
}


@pytest.mark.parametrize("name", CELLS)
def test_intervals_cover_near_95_percent(name):
    n, expected = CELLS[name]
    found = coverage(WORLDS[name], n, DRAWS, 0, before=False)
    error = math.sqrt(expected * (1 - expected) / DRAWS)  # 0.015
    assert found.hits == pytest.approx(expected, abs=3 * error)
    assert (found.none, found.zero_width) == (0, 0) or "ties" in name


def test_the_rule_before_covered_too_rarely_where_values_are_skewed_or_tied():
    for name, n in {"85% ties, rest normal(0, 1)": 38, "share 0.99, 1 to 10 items, correlation 0": 12}.items():
        before = coverage(WORLDS[name], n, 100, 0, before=True)
        assert before.hits < 0.9
        now = coverage(WORLDS[name], n, 100, 0, before=False)
        assert now.hits > 0.93


def test_no_interval_has_width_zero_in_any_world():
    assert len(WORLDS) >= 25
    for world in WORLDS.values():
        assert coverage(world, 10, 20, 0, before=False).zero_width == 0


@pytest.mark.parametrize("name", ["worst tenth, normal", "worst tenth, lognormal(1)", "difference of worst tenths"])
def test_the_worst_tenth_of_few_clients_is_refused(name):
    assert coverage(WORLDS[name], 20, 10, 0, before=False).none == 1
    assert coverage(WORLDS[name], 30, 10, 0, before=False).none == 1
    assert coverage(WORLDS[name], 31, 10, 0, before=False).none == 0


def test_equal_seeds_give_equal_tables():
    one, other = (list(table([WORLDS["normal"]], (10, 20), 20, 3)) for _ in range(2))
    assert one == other
    assert one[0] == "| clients drawn from | rule | 10 | 20 |"
    assert len(one) == 4


def test_the_command_prints_a_row_for_each_rule(capsys):
    assert main(["--draws", "2", "--worlds", "worst tenth, normal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in lines] == ["rule", "---", "before", "now"]
    assert lines[0].count("|") == 3 + len(SIZES)
