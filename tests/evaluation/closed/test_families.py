"""Rows in families: each once, with what they have in common, and fewer tokens than one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from fedllm_bench.evaluation.closed.families import Family, families

Row = tuple[int, ...]


def tokens_of(found: Sequence[Family], rows: Sequence[Row]) -> int:
    return sum(family.shared + sum(len(rows[row]) - family.shared for row in family.rows) for family in found)


def check(found: Sequence[Family], rows: Sequence[Row], limits: Sequence[int]) -> None:
    assert sorted(row for family in found for row in family.rows) == list(range(len(rows)))
    for family in found:
        assert len({rows[row][: family.shared] for row in family.rows}) == 1
        assert all(family.shared <= limits[row] for row in family.rows)
    assert sum(not family.shared for family in found) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_rows_of_random_trees_are_each_in_one_family(seed: int) -> None:
    rng = random.Random(seed)
    rows: list[Row] = [()]
    for _ in range(60):
        grown = rng.choice(rows)
        rows.append((*grown[: rng.randint(0, len(grown))], *(rng.randint(0, 2) for _ in range(rng.randint(1, 30)))))
    rows = list(dict.fromkeys(rows[1:]))
    limits = [rng.randint(0, len(row) - 1) for row in rows]
    for cost in (0, 3, 1000):
        found = families(rows, limits, cost)
        check(found, rows, limits)
        assert tokens_of(found, rows) <= sum(map(len, rows))
    assert len(found) == 1  # the last: a pass costs more than anything saves


def test_examples_are_computed_once_for_all_questions_of_a_subject() -> None:
    shots = [tuple(range(start, start + 500)) for start in (0, 1000)]
    rows = [(*shots[number % 2], 7, number, *range(60)) for number in range(40)]
    found = families(rows, [len(row) - 1 for row in rows], 128)
    check(found, rows, [len(row) - 1 for row in rows])
    assert sorted(family.shared for family in found) == [501, 501]


def test_a_question_is_computed_once_for_its_long_choices() -> None:
    rows = [
        (*range(100 * question, 100 * question + 90), 5, choice, *range(20))
        for question in range(3)
        for choice in "1234"
    ]
    numbers = [tuple(map(int, row)) for row in rows]
    found = families(numbers, [90] * 12, 10)
    check(found, numbers, [90] * 12)
    assert [family.shared for family in found] == [90, 90, 90]


def test_what_has_little_in_common_stands_alone() -> None:
    rows = [(1, 2, number, 4, 5) for number in range(10)]
    assert families(rows, [4] * 10, 128) == [Family(list(range(10)), 0)]
    assert families([], [], 128) == []
