"""Out of memory: smaller passes, the same results, one line that says so; and a plain error where nothing helps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
from fedllm_bench.training.block import ClientResult, ClientTask, train_block
from fedllm_bench.training.out_of_memory import Limit, WithinMemory, is_out_of_memory, regrouped, rows_at_once
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

LOCAL = settings(micro_batch=4, accumulation=1)


class Small:
    """Training on a device that holds `room` rows at once."""

    def __init__(self, train, room: int, error: Exception | None = None) -> None:
        self.train, self.room = train, room
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        self.passes: list[tuple[int, int]] = []

    def __call__(self, part: Sequence[ClientTask]) -> list[ClientResult]:
        if len(part) * rows_at_once(part) > self.room:
            raise self.error
        self.passes.append((len(part), rows_at_once(part)))
        return self.train(part)


def tasks_of(num_clients: int, local=LOCAL) -> list[ClientTask]:
    part = random_part(1, 40)
    return [client_task(k, part, range(5 * k, 5 * k + 5), local, steps=2) for k in range(num_clients)]


@pytest.fixture
def plain(double_model):
    message = {"params": initial(double_model, torch.float64)}
    return lambda part: train_block(double_model, FedAvg(), message, part, LOCAL)


@pytest.mark.parametrize(
    ("room", "passes"),
    [
        (99, [(5, 4)]),
        (8, [(2, 4), (2, 4), (1, 4)]),
        pytest.param(4, [(1, 4)] * 5, marks=pytest.mark.slow),
        (3, [(1, 2)] * 5),
        pytest.param(1, [(1, 1)] * 5, marks=pytest.mark.slow),
    ],
)
def test_fewer_clients_then_fewer_rows_and_the_same_results(room, passes, plain):
    tasks = tasks_of(5)
    expected = plain(tasks)
    small = Small(plain, room)
    results = WithinMemory(small)(tasks)
    assert small.passes == passes
    assert [result.client for result in results] == [0, 1, 2, 3, 4]
    assert distance([r.upload["delta"] for r in results], [r.upload["delta"] for r in expected]) < 1e-12
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, abs=1e-12)
        assert ours.num_examples == theirs.num_examples


@pytest.mark.slow
def test_what_was_too_large_is_not_tried_again_and_said_once(plain, caplog):
    small = Small(plain, 2)
    train = WithinMemory(small)
    with caplog.at_level(logging.WARNING):
        train(tasks_of(4))
        first = len(caplog.records)
        train(tasks_of(4))
    assert train.limit == Limit(clients=1, rows=2)
    assert first == len(caplog.records) == 3
    assert caplog.messages[0] == (
        "out of memory with 4 client(s) of 4 row(s) at once; from here on 2 of 4, with the same rows in a step"
    )
    assert small.passes == [(1, 2)] * 8


@pytest.mark.slow
def test_one_row_that_does_not_fit_is_an_error_with_ways_out(plain):
    with pytest.raises(UserError) as caught:
        WithinMemory(Small(plain, 0))(tasks_of(2))
    text = str(caught.value)
    assert "Tried to allocate 2 GiB" in text
    assert "local.gradient_checkpointing=true" in text
    assert "\n" not in text


def test_other_errors_are_not_taken_for_it(plain):
    with pytest.raises(RuntimeError, match="shapes differ"):
        WithinMemory(Small(plain, 0, RuntimeError("shapes differ")))(tasks_of(2))


def test_the_allocator_of_the_cpu_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("something else"))


def test_regrouping_keeps_the_rows_of_every_step(tiny_clients):
    task = tasks_of(1, settings(micro_batch=5, accumulation=2))[0]
    for rows in (1, 2, 3, 4, 7):
        cut = regrouped(task, rows)
        assert rows_at_once([cut]) <= rows
        for ours, theirs in zip(cut.steps, task.steps, strict=True):
            assert [i for micro in ours for i in micro] == [i for micro in theirs for i in micro]
    assert regrouped(task, 5) is task
    assert regrouped(task, None) is task


@pytest.mark.parametrize("name", sweep(METHODS, "fedavg", "scaffold"))
def test_a_run_that_meets_it_ends_as_one_that_does_not(
    name, double_model, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config(name, "local.block_size=2", "federation.rounds=2")
    method, start = make_method(config), initial(double_model, torch.float64)
    outcomes, most = [], []

    def tight(model, method, message, part, local):
        most.append(len(part) * rows_at_once(part))
        if most[-1] > 3:
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
    assert sum(size > 3 for size in most) <= 2  # remembered over rounds
    assert distance(*outcomes) < 1e-12


def test_a_step_keeps_the_activations_of_one_micro_batch_at_a_time(double_model):
    """Two were held before: the graph of a micro-batch lived on through the forward pass of the next."""
    part, peaks = random_part(1, 1), []
    for accumulation in (1, 4):
        local = settings(micro_batch=2, accumulation=accumulation)
        task = client_task(0, part, [0], local, steps=1)
        with saved_bytes(double_model.base) as saved:
            train_block(double_model, FedAvg(), {"params": initial(double_model, torch.float64)}, [task], local)
        peaks.append(saved.peak)
    assert peaks[0] > 50_000
    assert peaks[1] < 1.2 * peaks[0]
