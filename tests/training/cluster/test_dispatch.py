"""Blocks on workers that die, answer late or load something else: who trains what, and what a user is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scripted_ray import ActorDied, ScriptedRay, ScriptedWorker, TaskFailed, about_of
from tiny import LOCAL, client_task, random_part

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.config.run import Lora, Model, Ray
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.pipeline import spreading
from fedllm_bench.pipeline.plan import Plan
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.cluster import pool as pools
from fedllm_bench.training.cluster.blocks import trained_blocks
from fedllm_bench.training.cluster.dispatch import MOST_DEATHS
from fedllm_bench.training.cluster.loaded import LoadedBase
from fedllm_bench.training.cluster.pool import MOST_FAILED_STARTS, Pool
from fedllm_bench.training.cluster.room import Room
from fedllm_bench.training.cluster.wire import SentRound
from fedllm_bench.training.passes import PassPlan
from fedllm_bench.training.tasks import Until, clients_per_block

BASE = LoadedBase(
    model=Model(name="tiny", dtype="float32"), lora=Lora(rank=4, alpha=8, dropout=0.0, targets=("q_proj",)), threads=1
)
PART = random_part(seed=0, num_rows=40)


def tasks(*steps: int) -> list[ClientTask]:
    """A client for each number, of so many steps."""
    return [client_task(k, PART, range(40), LOCAL, steps=n) for k, n in enumerate(steps)]


def pool_on(ray: ScriptedRay, **settings: Any) -> Pool:
    return Pool(ray.connection(), BASE, Room(Ray(**settings), 1, on_gpu=False), about_of())


def trained(
    ray: ScriptedRay, blocks: Iterable[Sequence[ClientTask]], config: Any, pool: Pool | None = None
) -> list[int]:
    """The clients in the order in which they were answered."""
    sent = SentRound(base=BASE, plan=PassPlan(), engine=None, method=FedAvg(), config=config, message={}, local=LOCAL)
    found = trained_blocks(pool or pool_on(ray), sent, blocks)
    return [result.client for results in found for result in results]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture
def config(tiny_run_config: Any) -> Any:
    return tiny_run_config()


def test_the_block_with_most_tokens_goes_first(config: Any) -> None:
    ray = ScriptedRay()
    assert trained(ray, [[task] for task in tasks(1, 12, 3, 6)], config) == [0, 1, 2, 3], "results keep their order"
    assert ray.began == [[1], [3], [2], [0]]


def test_a_block_whose_worker_dies_is_trained_by_another(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    deaths = iter([ActorDied("killed"), ActorDied("killed")])
    ray = ScriptedRay(fate=lambda worker, clients: next(deaths, None) if clients == [1] else None, alive=["n0", "n1"])
    assert sorted(trained(ray, [[task] for task in tasks(1, 1, 1)], config)) == [0, 1, 2]
    assert ray.began.count([1]) == 3
    assert ray.killed == 2
    assert "trained again by another" in caplog.text


def test_a_block_that_ends_every_worker_ends_the_run_in_one_line(config: Any) -> None:
    ray = ScriptedRay(fate=lambda worker, clients: ActorDied("signal 9\nmore") if clients == [2] else None)
    with pytest.raises(UserError) as error:
        trained(ray, [[task] for task in tasks(1, 1, 1)], config)
    assert f"{MOST_DEATHS} workers of Ray ended while they trained client-2 (signal 9)" in str(error.value)
    assert "\n" not in str(error.value)
    assert ray.began.count([2]) == MOST_DEATHS


def test_a_worker_that_ray_ended_for_memory_leaves_two_smaller_blocks(config: Any) -> None:
    def fate(worker: ScriptedWorker, clients: list[int]) -> Exception | None:
        return ActorDied("killed, since the node was running low on memory") if len(clients) > 2 else None

    ray = ScriptedRay(fate=fate)
    assert sorted(trained(ray, [tasks(1, 1, 1, 1, 1)], config)) == [0, 1, 2, 3, 4]
    assert ray.began == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2], [3, 4]]


def test_an_error_of_a_worker_for_users_is_raised_as_it_was(config: Any) -> None:
    ray = ScriptedRay(fate=lambda worker, clients: TaskFailed(UserError("one row does not fit")))
    with pytest.raises(UserError, match=r"^one row does not fit$"):
        trained(ray, [tasks(1)], config)


def test_a_bug_in_a_worker_keeps_its_traceback(config: Any) -> None:
    ray = ScriptedRay(fate=lambda worker, clients: TaskFailed(KeyError("w")))
    with pytest.raises(TaskFailed):
        trained(ray, [tasks(1)], config)


def test_after_a_stop_blocks_that_are_begun_end_and_no_other_begins(config: Any) -> None:
    stop = Stop()

    def fate(worker: ScriptedWorker, clients: list[int]) -> None:
        stop.signum = 2 if clients == [1] else stop.signum

    for steps, began, answered in (((6, 3, 1, 1), [0, 1], [0, 1]), ((1, 3, 6, 1), [2, 1], [])):
        stop.signum, ray = None, ScriptedRay(fate=fate)
        assert trained(ray, Until(stop, [[task] for task in tasks(*steps)]), config) == answered
        assert [client for block in ray.began for client in block] == began


def test_as_many_workers_as_there_is_room_for_or_as_asked_for() -> None:
    for cores, settings, expected in ((1.0, {}, 2), (3.0, {}, 6), (3.0, {"workers": 4}, 4), (0.0, {}, 0)):
        pool = pool_on(ScriptedRay(alive=["n0", "n1"], cores=cores), **settings)
        pool.tend()
        assert len(pool.seats) == expected


def test_workers_of_several_threads_take_as_many_cores() -> None:
    for threads, expected in ((2, 4), (3, 2), (9, 2)):
        pool = pool_on(ScriptedRay(alive=["n0", "n1"], cores=4.0))
        pool.room = Room(Ray(), threads, on_gpu=False)
        pool.tend()
        assert len(pool.seats) == expected


def test_a_node_that_joins_is_used_and_a_worker_of_one_that_left_is_not() -> None:
    ray = ScriptedRay()
    pool = pool_on(ray)
    pool.tend()
    pool.seated(pool.seats[0])
    ray.alive = ["n1", "n2"]
    pool.tend()
    assert [seat.about for seat in pool.seats] == [None, None]
    assert ray.killed == 1


def test_without_room_for_a_worker_the_run_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_on(ScriptedRay(cores=0.0))
    pool.tend()
    monkeypatch.setattr(pools, "SECONDS_WITHOUT_ROOM", -1.0)
    with pytest.raises(UserError, match=r"no room for a worker .* give the command again when nodes are back"):
        pool.tend()


def test_workers_that_all_end_while_they_load_end_the_run_in_one_line(config: Any) -> None:
    ray = ScriptedRay(abouts={"n0": ActorDied("cannot allocate")})
    with pytest.raises(UserError, match=f"{MOST_FAILED_STARTS} workers of Ray ended while they loaded the base"):
        trained(ray, [tasks(1)], config)
    assert ray.made == MOST_FAILED_STARTS


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": "0.0.9"}, "host-a has fedllm-bench 0.0.9, not "),
        ({"digest": "other", "logits": -np.ones((2, 3))}, "is not the one of this process"),
        ({"digest": "other", "logits": np.ones((2, 4))}, "is not the one of this process"),
    ],
)
def test_a_worker_with_other_code_or_another_base_is_refused(changes: Any, text: str, config: Any) -> None:
    with pytest.raises(UserError, match=text):
        trained(ScriptedRay(abouts={"n0": about_of(**changes)}), [tasks(1)], config)


def test_a_run_whose_workers_round_otherwise_says_so_once(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    other = about_of(digest="other", device="GPU X", logits=np.full((2, 3), 1.001))
    ray = ScriptedRay(abouts={"n0": other, "n1": other}, alive=["n0", "n1"])
    pool = pool_on(ray)
    assert sorted(trained(ray, [[task] for task in tasks(1, 1, 1)], config, pool)) == [0, 1, 2]
    assert trained(ray, [tasks(1)], config, pool) == [0]
    assert caplog.text.count("up to rounding, not bit for bit") == 1


def test_the_token_store_is_put_once_and_the_message_once_a_call(config: Any) -> None:
    ray = ScriptedRay()
    pool = pool_on(ray)
    for _ in range(3):
        assert len(trained(ray, [[task] for task in tasks(1, 1)], config, pool)) == 2
    assert ray.stored == 1 + 3


def test_workers_without_a_block_are_told_of_once(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = pool_on(ray := ScriptedRay(cores=3.0))
    for _ in range(2):
        assert sorted(trained(ray, [tasks(1, 1, 1)[:2], tasks(1, 1, 1)[2:]], config, pool)) == [0, 1, 2]
    assert caplog.text.count("3 clients come in 2 blocks") == 1
    assert len(trained(ScriptedRay(cores=3.0), [[task] for task in tasks(1, 1)], config)) == 2
    assert caplog.text.count("come in") == 1


@pytest.mark.parametrize(("workers", "block_size"), [(1, 3), (2, 2), (3, 1), (9, 1), (0, 3)])
def test_a_run_that_begins_has_a_block_for_each_worker(
    workers: int, block_size: int, tiny_run_config: Any, tiny_clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreading, "workers_of", lambda settings, threads: workers)
    plan = Plan(threads=1, block_size=8, version=2, pass_tokens=1024)
    planned = spreading.spread(plan, tiny_run_config(engine="ray"))
    assert planned == replace(plan, block_size=block_size)
    assert spreading.spread(plan, tiny_run_config()) == plan
    rows = tiny_clients.tokens["train"]
    assert clients_per_block(tiny_run_config(), rows, PassPlan(1024, planned.block_size)) == block_size, "on any engine"
