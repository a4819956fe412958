"""Passes of a step: every row once, no more tokens than allowed, the rows of a client together, little padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from block_runs import gap, start_of, tasks_of
from pairs import random_pairs
from tiny import client_task, random_part, settings

from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.block import train_block
from fedllm_bench.training.passes import PassPlan, cuts, most_tokens, padded_tokens, passes_of
from fedllm_bench.training.tasks import clients_of_length

PART = random_part(seed=3, num_rows=60)
LOCAL = settings(micro_batch=3, accumulation=2)


def tasks(num_clients: int = 4, part=PART):
    return [client_task(k, part, range(15 * k, 15 * k + 15), LOCAL, steps=2) for k in range(num_clients)]


@pytest.mark.parametrize("tokens", [1, 40, 100, 10_000, None])
@pytest.mark.parametrize("part", [PART, random_pairs(4, 60)], ids=["rows", "pairs"])
def test_every_row_is_in_one_pass_with_its_owner(tokens, part):
    found = passes_of(tasks(part=part), 1, tokens)
    placed = sorted((each.owner, each.place) for rows in found for each in rows)
    assert placed == [(owner, place) for owner in range(4) for place in range(6)]
    flat = {k: [i for micro in task.steps[1] for i in micro] for k, task in enumerate(tasks(part=part))}
    for each in (each for rows in found for each in rows):
        expected = part[15 * each.owner + flat[each.owner][each.place]]
        assert [a.ids.tolist() for a in each.row.sequences] == [b.ids.tolist() for b in expected.sequences]


@pytest.mark.parametrize("tokens", [40, 100, 200])
def test_a_pass_has_no_more_tokens_than_allowed_and_clients_lie_together(tokens):
    found = passes_of(tasks(), 0, tokens)
    assert len(found) > 1
    for rows in found:
        assert len(rows) == 1 or len(rows) * max(each.longest for each in rows) <= tokens
        assert [each.owner for each in rows] == sorted(each.owner for each in rows)


def test_without_a_budget_a_pass_is_a_micro_batch_of_every_client():
    found = passes_of(tasks(), 0, None)
    assert [[each.owner for each in rows] for rows in found] == [[k for k in range(4) for _ in range(3)]] * 2
    for owner in range(4):
        lengths = [each.longest for rows in found for each in rows if each.owner == owner]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("tokens", [512, 1024, 2048])
def test_little_is_padding_and_passes_are_few(tokens):
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = sorted(np.clip(rng.lognormal(np.log(90), 0.45, 64), 8, 256).astype(int).tolist(), reverse=True)
        places = cuts(lengths, tokens)
        assert [start for start, _ in places[1:]] == [end for _, end in places[:-1]]
        assert (places[0][0], places[-1][1]) == (0, len(lengths))
        sizes = [(end - start) * lengths[start] for start, end in places]
        assert max(sizes) <= tokens
        assert len(sizes) <= 3 * -(-sum(lengths) // tokens)
        assert sum(lengths) / padded_tokens(lengths, tokens) > 0.88


def every_way(lengths: list[int], tokens: int) -> float:
    """The least cost over all ways to cut the rows."""
    costs = [0.0]
    for end in range(1, len(lengths) + 1):
        starts = [start for start in range(end) if end - start == 1 or (end - start) * lengths[start] <= tokens]
        costs.append(min(costs[start] + tokens / 16 + (end - start) * lengths[start] for start in starts))
    return costs[-1]


def test_no_way_to_cut_costs_less():
    rng = np.random.default_rng(1)
    for _ in range(30):
        lengths = sorted(rng.integers(1, 40, 12).tolist(), reverse=True)
        for tokens in (10, 64, 200):
            places = cuts(lengths, tokens)
            cost = padded_tokens(lengths, tokens) + len(places) * tokens / 16
            assert cost == pytest.approx(every_way(lengths, tokens))


def test_rows_that_are_longer_than_a_pass_go_alone():
    assert cuts([9, 8, 3, 3], 6) == [(0, 1), (1, 2), (2, 4)]
    assert cuts([5], 100) == [(0, 1)]
    assert padded_tokens([], 100) == 0


@pytest.mark.parametrize("tokens", [1, 30, 64, 10_000, None])
def test_results_do_not_depend_on_the_size_of_a_pass(tokens, load_tiny):
    """With dropout too: a row's masks are its own."""
    model, local = load_tiny(dropout=0.3, dtype="float64"), settings(accumulation=2)
    start = start_of(model)
    found = [
        train_block(replace(model, plan=plan), FedAvg(), {"params": start}, tasks_of(FedAvg(), start, local), local)
        for plan in (PassPlan(), PassPlan(tokens))
    ]
    for ours, theirs in zip(*found, strict=True):
        assert gap(ours, theirs) < 1e-11
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-6)


@pytest.mark.parametrize(
    ("device", "change", "expected"),
    [
        ("cpu", {}, 1024),
        ("cuda", {}, 8 * 8 * 256),
        ("cuda", {"micro_batch": 16}, 16_384),
        ("cpu", {"block_size": 1, "micro_batch": 2}, 512),
        ("cpu", {"block_size": 1, "micro_batch": 1, "loss": "dpo"}, 512),
    ],
)
def test_tokens_without_a_search(device, change, expected):
    local = replace(settings(micro_batch=8), **{"sequence_length": 256, "block_size": 8, **change})
    assert most_tokens(local, device) == expected


@pytest.mark.parametrize(
    ("tokens", "micro_batch", "length", "expected"),
    [(1024, 8, 16, 8), (1024, 8, 128, 4), (1024, 8, 9999, 1), (None, 8, 128, 2), (None, 8, 999, 1)],
)
def test_a_block_holds_few_clients_of_long_rows(tokens, micro_batch, length, expected):
    local = replace(settings(micro_batch=micro_batch, accumulation=2), block_size=8)
    assert clients_of_length(local, length, PassPlan(tokens)) == expected
