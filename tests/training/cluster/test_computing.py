"""Batches on workers that die or are at something else: what comes back, in which order, and what is sent once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from scripted_ray import ActorDied, ScriptedRay, about_of
from tiny import LOCAL, client_task, random_part

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.config.run import Lora, Model, Ray
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.cluster import pool as pools
from fedllm_bench.training.cluster.blocks import trained_blocks
from fedllm_bench.training.cluster.computing import Piece, UnderAdapters, Workers
from fedllm_bench.training.cluster.dispatch import MOST_DEATHS
from fedllm_bench.training.cluster.loaded import LoadedBase
from fedllm_bench.training.cluster.pool import POOLS, Pool
from fedllm_bench.training.cluster.room import Room
from fedllm_bench.training.cluster.wire import SentRound
from fedllm_bench.training.passes import PassPlan

BASE = LoadedBase(
    model=Model(name="tiny", dtype="float32"), lora=Lora(rank=4, alpha=8, dropout=0.0, targets=("q_proj",)), threads=1
)
TREE = {"a": torch.ones(2)}


@dataclass(frozen=True)
class Squares:
    numbers: Sequence[int]

    def __call__(self, model: Any) -> list[int]:
        return [number**2 for number in self.numbers]


def piece(*numbers: int) -> Piece:
    return Piece(Squares(numbers), (), len(numbers))


def nothing(model: Any, adapters: Any, owners: Any) -> AbstractContextManager[None]:
    return nullcontext()


def under(name: str = "a") -> UnderAdapters:
    return Workers(BASE, Ray(), about_of).under(name, {"": TREE}, nothing)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pools, "SECONDS_BETWEEN_LOOKS", 0.0)
    yield
    POOLS.clear()


def pool_on(ray: ScriptedRay) -> Pool:
    POOLS[:] = [Pool(ray.connection(), BASE, Room(Ray(), 1, on_gpu=False), about_of())]
    return POOLS[0]


def test_batches_come_back_in_their_order_whoever_is_done_first(tiny_model: Any) -> None:
    ray = ScriptedRay(alive=["n0", "n1", "n2"])
    pool_on(ray)
    found = list(under()(tiny_model, [piece(n, n + 1) for n in range(20)], Stop()))
    assert found == [[n**2, (n + 1) ** 2] for n in range(20)]
    assert ray.began == [[n, n + 1] for n in range(20)], "none goes first, none is cut"


def test_a_batch_whose_worker_dies_is_computed_by_another(tiny_model: Any, caplog: pytest.LogCaptureFixture) -> None:
    deaths = iter([ActorDied("killed, since the node was running low on memory"), ActorDied("killed")])
    ray = ScriptedRay(fate=lambda worker, numbers: next(deaths, None) if 2 in numbers else None, alive=["n0", "n1"])
    pool_on(ray)
    assert list(under()(tiny_model, [piece(1), piece(2, 3), piece(4)], Stop())) == [[1], [4, 9], [16]]
    assert ray.began.count([2, 3]) == 3, "whole each time: who shares a batch decides how sums are rounded"
    assert "a batch of 2 rows: computed again by another" in caplog.text


def test_a_batch_that_ends_every_worker_ends_the_run_in_one_line(tiny_model: Any) -> None:
    pool_on(ScriptedRay(fate=lambda worker, numbers: ActorDied("signal 9") if numbers == [2] else None))
    with pytest.raises(UserError, match=f"{MOST_DEATHS} workers of Ray ended while they computed a batch of 1 row"):
        list(under()(tiny_model, [piece(1), piece(2)], Stop()))


def test_after_a_stop_no_batch_is_begun(tiny_model: Any) -> None:
    stop = Stop()

    def fate(worker: Any, numbers: list[int]) -> None:
        stop.signum = 2 if numbers == [1] else stop.signum

    pool_on(ray := ScriptedRay(fate=fate))
    assert list(under()(tiny_model, [piece(n) for n in range(9)], stop)) == [[0], [1]]
    assert ray.began == [[0], [1]]


def test_adapters_are_put_once_for_all_batches_of_a_name(tiny_model: Any) -> None:
    pool_on(ray := ScriptedRay())
    for name in ("a", "a", "b"):
        assert len(list(under(name)(tiny_model, [piece(1), piece(2)], Stop()))) == 2
    assert ray.stored == 2
    unpacked = replace(tiny_model, plan=replace(tiny_model.plan, packed=not tiny_model.plan.packed))
    list(under("b")(unpacked, [piece(1)], Stop()))
    assert ray.stored == 3, "with padding sums are rounded otherwise"


def test_batches_between_two_blocks_take_nothing_from_the_blocks(tiny_model: Any, tiny_run_config: Any) -> None:
    """As personalisation does: a block is scored while others are in training."""
    ray = ScriptedRay(alive=["n0", "n1", "n2"])
    pool, part = pool_on(ray), random_part(seed=0, num_rows=40)
    sent = SentRound(base=BASE, plan=PassPlan(), engine=None, method=FedAvg(), config=tiny_run_config(), message={},
                     local=LOCAL)  # fmt: skip
    blocks = [[client_task(k, part, range(40), LOCAL, steps=1)] for k in range(7)]
    found = []
    for results in trained_blocks(pool, sent, blocks):
        found += [result.client for result in results]
        assert list(under()(tiny_model, [piece(100), piece(200)], Stop())) == [[10_000], [40_000]]
    assert found == list(range(7))
    assert sorted(began for began in ray.began if began[0] < 100) == [[k] for k in range(7)], "each once"


def test_batches_made_up_while_others_run_end_when_there_are_none(tiny_model: Any) -> None:
    """As answers do: what comes of one batch is asked on in a later one."""
    pool_on(ScriptedRay(alive=["n0", "n1"]))
    waiting, shares = [[2], [3]], []

    def take(workers: int) -> Piece | None:
        shares.append(workers)
        return piece(*waiting.pop(0)) if waiting else None

    found = []
    for values in under().as_ready(tiny_model, take):
        found += values
        waiting += [[value] for value in values if value < 10]
    assert sorted(found) == [4, 9, 16, 81]
    assert set(shares) == {2}
