"""Who trains on what and when: functions of (seed, round, client), pinned so that no run changes unseen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tiny import CPU

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.batches import choose_clients, collate, plan_steps, schedule

PINNED_CLIENTS = [[0, 1, 2, 9, 10, 16, 20, 26], [0, 11, 13, 14, 20, 22, 26, 27]]
PINNED_PLAN = (((0, 6, 3), (7, 2, 1)), ((4, 5, 8), (9, 9, 8)))


def plan(seed=0, round_num=0, client=0, *, num_rows=10, steps=4, micro_batch=3, accumulation=2):
    return plan_steps(
        seed, round_num, client, num_rows=num_rows, steps=steps, micro_batch=micro_batch, accumulation=accumulation
    )


def flat(steps) -> list[int]:
    return [row for step in steps for micro in step for row in micro]


def test_the_schedule_is_pinned():
    """Other numbers here are other results in every run folder: raise a version and say so in the CHANGELOG."""
    assert [choose_clients(0, round_num, 38, 8) for round_num in (0, 1)] == PINNED_CLIENTS


def test_the_plan_is_pinned():
    assert plan(seed=1, round_num=2, client=3, steps=2) == PINNED_PLAN


def test_the_schedule_is_a_function_of_seed_and_round_alone(tiny_run_config):
    config = tiny_run_config("fedavg", "federation.rounds=20", seed=4)
    rounds = schedule(config, 6)
    assert rounds == schedule(config, 6)
    assert rounds == [choose_clients(4, round_num, 6, 3) for round_num in range(20)]
    assert len({tuple(chosen) for chosen in rounds}) > 8  # of 20 possible sets
    assert schedule(tiny_run_config("fedavg", "federation.rounds=20", seed=5), 6) != rounds
    assert schedule(tiny_run_config("local", "federation.rounds=20", seed=4), 6) == rounds  # methods are compared


def test_clients_of_a_round_are_distinct_sorted_and_all_of_them_in_turn():
    seen: Counter[int] = Counter()
    for round_num in range(200):
        chosen = choose_clients(3, round_num, 10, 4)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 4
        seen.update(chosen)
    assert seen.keys() == set(range(10))
    assert all(50 < times < 110 for times in seen.values())  # 80 expected, standard deviation 7


def test_more_clients_a_round_than_there_are_is_refused(tiny_run_config):
    with pytest.raises(UserError, match=r"clients_per_round=7.*6 clients"):
        schedule(tiny_run_config("fedavg", "federation.clients_per_round=7"), 6)
    assert schedule(tiny_run_config("fedavg", "federation.clients_per_round=6"), 6)[0] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("num_rows", [1, 2, 5, 24, 100])
def test_each_row_comes_once_a_pass_without_a_gap(num_rows):
    order = flat(plan(num_rows=num_rows))
    assert len(order) == 4 * 2 * 3
    for start in range(0, len(order), num_rows):
        one_pass = order[start : start + num_rows]
        assert len(set(one_pass)) == len(one_pass)
        assert set(one_pass) <= set(range(num_rows))
    counts = Counter(order)
    assert max(counts.values()) <= min(counts[row] for row in range(num_rows)) + 1


def test_steps_have_micro_batches_of_the_same_size():
    assert [[len(micro) for micro in step] for step in plan(num_rows=5)] == [[3, 3]] * 4
    assert plan(steps=0, num_rows=0) == ()


@pytest.mark.parametrize("change", [{"seed": 1}, {"round_num": 1}, {"client": 1}])
def test_the_plan_changes_with_seed_round_and_client(change):
    assert plan(**change) != plan()
    assert plan(**change) == plan(**change)


def test_more_steps_go_on_where_fewer_end():
    assert plan(steps=6)[:2] == plan(steps=2)


def test_collate_pads_on_the_right_and_counts_only_what_is_counted():
    rows = [
        TokenRow(np.array([5, 6, 7], np.int32), np.array([False, True, True])),
        TokenRow(np.array([8], np.int32), np.array([False])),
    ]
    batch = collate(rows, CPU, pad_id=2)
    assert batch.ids.tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch.targets.tolist() == [[-100, 6, 7], [-100, -100, -100]]
