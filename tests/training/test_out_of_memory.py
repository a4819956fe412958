"""Out of memory: smaller passes, the same results, one line that says so; and a plain error where nothing helps."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from resumed_rounds import distance, initial
from saved import saved_bytes
from sweeps import sweep
from tiny import client_task, random_part, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import engines
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.out_of_memory import WithinMemory, is_out_of_memory, largest_pass
from fedllm_bench.training.passes import PassPlan, passes_of
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

LOCAL = settings(micro_batch=4, accumulation=1)


class Small:
    """Training on a device that holds `room` padded tokens and the adapters of `clients`."""

    def __init__(self, train, room: int, clients: int = 99, error: Exception | None = None) -> None:
        self.train, self.room, self.clients = train, room, clients
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        self.blocks: list[tuple[int, int | None]] = []

    def __call__(self, part: Sequence[ClientTask], tokens: int | None) -> list[ClientResult]:
        if most_tokens_of(part, tokens) > self.room or len(part) > self.clients:
            raise self.error
        self.blocks.append((len(part), tokens))
        return self.train(part, tokens)


def most_tokens_of(part: Sequence[ClientTask], tokens: int | None) -> int:
    """Padded tokens of the largest pass."""
    steps = range(max(len(task.steps) for task in part))
    found = [rows for number in steps for rows in passes_of(part, number, tokens)]
    return max(len(rows) * max(each.longest for each in rows) for rows in found)


def tasks_of(num_clients: int, local=LOCAL) -> list[ClientTask]:
    part = random_part(1, 40)
    return [client_task(k, part, range(5 * k, 5 * k + 5), local, steps=2) for k in range(num_clients)]


@pytest.fixture
def plain(double_model):
    message = {"params": initial(double_model, torch.float64)}

    def train(part, tokens):
        return train_block(replace(double_model, plan=PassPlan(tokens)), FedAvg(), message, part, LOCAL)

    return train


LONGEST = max(len(row.ids) for row in random_part(1, 40))


@pytest.mark.parametrize(
    ("room", "clients", "blocks"),
    [(9999, 99, [5]), (5 * LONGEST, 99, [5]), (5 * LONGEST, 2, [2, 2, 1]), (LONGEST, 1, [1] * 5)],
)
def test_fewer_tokens_then_fewer_clients_and_the_same_results(room, clients, blocks, plain):
    tasks = tasks_of(5)
    expected = plain(tasks, 1024)
    small = Small(plain, room, clients)
    results = WithinMemory(small, PassPlan(1024))(tasks)
    assert [size for size, _ in small.blocks] == blocks
    assert all(tokens <= max(room, 1024) for _, tokens in small.blocks)
    assert [result.client for result in results] == [0, 1, 2, 3, 4]
    assert distance([r.upload["delta"] for r in results], [r.upload["delta"] for r in expected]) < 1e-12
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, abs=1e-12)
        assert ours.num_examples == theirs.num_examples


def test_passes_by_micro_batch_become_small_ones_too(plain):
    tasks = tasks_of(2)
    small = Small(plain, 3 * LONGEST)
    results = WithinMemory(small, PassPlan(None))(tasks)
    expected = plain(tasks, None)
    assert distance([r.upload["delta"] for r in results], [r.upload["delta"] for r in expected]) < 1e-12


@pytest.mark.parametrize("packed", [False, True])
def test_a_pass_of_several_rows_is_made_smaller_before_a_row_is_given_up(packed):
    """A long row and short ones share a packed pass; padded, the long one is alone."""
    part = random_part(1, 40)
    tasks = tasks_of(1)
    total = sum(len(part[row].ids) for row in range(5))
    rows, tokens = largest_pass(tasks, PassPlan(total, packed=packed))
    assert rows > 1
    assert largest_pass([replace(tasks[0], steps=())], PassPlan(total, packed=packed)) == (0, 0)
    alone, longest = largest_pass(tasks, PassPlan(1, packed=packed))
    assert alone == 1
    assert longest <= LONGEST < tokens


def test_what_was_too_large_is_not_tried_again_and_said_once(plain, caplog):
    small = Small(plain, LONGEST, clients=2)
    train = WithinMemory(small, PassPlan(1024))
    with caplog.at_level(logging.WARNING):
        train(tasks_of(4))
        first = len(caplog.records)
        train(tasks_of(4))
    assert train.limit.clients == 2
    assert train.limit.tokens <= 2 * LONGEST
    assert first == len(caplog.records) > 2
    assert re.fullmatch(
        r"out of memory with \d+ tokens in a pass; from here on at most \d+, with the same rows in a step",
        caplog.messages[0],
    )
    assert caplog.messages[-1] == "out of memory with the adapters of 4 clients; from here on 2 at a time"
    assert [size for size, _ in small.blocks] == [2] * 4


@pytest.mark.slow
def test_one_row_that_does_not_fit_is_an_error_with_ways_out(plain):
    with pytest.raises(UserError) as caught:
        WithinMemory(Small(plain, 0), PassPlan(1024))(tasks_of(2))
    text = str(caught.value)
    assert "Tried to allocate 2 GiB" in text
    assert "local.gradient_checkpointing=true" in text
    assert "\n" not in text


def test_other_errors_are_not_taken_for_it(plain):
    with pytest.raises(RuntimeError, match="shapes differ"):
        WithinMemory(Small(plain, 0, error=RuntimeError("shapes differ")), PassPlan(1024))(tasks_of(2))


def test_the_allocator_of_the_cpu_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("something else"))


@pytest.mark.parametrize("name", sweep(METHODS, "fedavg", "scaffold"))
def test_a_run_that_meets_it_ends_as_one_that_does_not(
    name, double_model, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config(name, "local.block_size=2", "federation.rounds=2")
    method, start = make_method(config), initial(double_model, torch.float64)
    outcomes, most = [], []

    def tight(model, method, message, part, local):
        most.append(most_tokens_of(part, model.plan.tokens))
        if most[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train_block(model, method, message, part, local)

    for folder in (tmp_path / "roomy", tmp_path / "tight"):
        folder.mkdir()
        blocks = engines.in_process(double_model, method, config)
        run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        server = run_rounds(run, start)
        states = [run.states.get(client, {}, 2) for client in range(6)]
        outcomes.append([server.params, *(state[key] for state in states for key in state)])
        monkeypatch.setattr(engines, "train_block", tight)
    assert 0 < sum(size > 100 for size in most) <= 3  # remembered over rounds
    assert distance(*outcomes) < 1e-12


def test_a_step_keeps_the_activations_of_one_pass_at_a_time(double_model):
    """Two were held before: the graph of a pass lived on through the forward part of the next."""
    part, peaks = random_part(1, 1), []
    model = replace(double_model, plan=PassPlan(2 * len(part[0].ids)))
    for accumulation in (1, 4):
        local = settings(micro_batch=2, accumulation=accumulation)
        task = client_task(0, part, [0], local, steps=1)
        with saved_bytes(model.base) as saved:
            train_block(model, FedAvg(), {"params": initial(model, torch.float64)}, [task], local)
        peaks.append(saved.peak)
    assert peaks[0] > 50_000
    assert peaks[1] < 1.2 * peaks[0]
