"""The rounds of a run: resumed runs are undisturbed ones bit by bit, and every engine, mean and record is right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedllm_bench.config import RunConfig
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.errors import UserError
from fedllm_bench.files import read_jsonl
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Message, Server
from fedllm_bench.methods.local import Local
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import rounds
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.block import ClientResult, ClientTask
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.engines import ENGINES, MapBlocks, in_process
from fedllm_bench.training.lora import initial_adapter
from fedllm_bench.training.model import LoraModel, load_model
from fedllm_bench.training.rounds import Run, run_rounds
from fedllm_bench.trees import Tree


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def dropping(load_tiny) -> LoraModel:
    return load_tiny(dropout=0.1)


def initial(model: LoraModel, dtype: torch.dtype = torch.float32) -> Tree:
    return {name: tensor.to(dtype) for name, tensor in initial_adapter(model.layers, rank=4, seed=0).items()}


def killed_at(real: MapBlocks, round_num: int, answers: int) -> MapBlocks:
    """An engine that stops in a round after so many answers; after the last, the round has no checkpoint yet."""
    seen = iter(range(1000))

    def map_blocks(message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        this_round = next(seen)
        for number, answered in enumerate(real(message, blocks, local)):
            if (this_round, number) == (round_num, answers):
                raise Killed
            yield answered
        if this_round == round_num:
            raise Killed

    return map_blocks


def left_behind(run: Run) -> dict[str, Any]:
    """All that a run leaves, without its times."""
    server = load_server(run.folder / "checkpoint")
    assert server is not None
    records = [{k: v for k, v in r.items() if k != "seconds"} for r in read_jsonl(run.folder / "rounds.jsonl")]
    states = [run.states.get(client, {}, server.round) for client in range(len(run.clients))]
    return {"server": server, "records": records, "states": states}


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Server):
        return same_bits(vars(a), vars(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_killed_anywhere_ends_as_an_undisturbed_one(
    name, dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config(name, "local.block_size=1", "local.steps=1")
    method, start = make_method(config), initial(dropping)
    real = in_process(dropping, method)
    run = Run(config=config, method=method, clients=tiny_clients, map_blocks=real, folder=tmp_path / "whole")
    run.folder.mkdir()
    run_rounds(run, start)
    whole = left_behind(run)
    assert whole["server"].round == 3
    for round_num, answers in [(0, 2), (1, 0), (2, 1), (2, 3)]:
        broken = replace(run, folder=tmp_path / f"{round_num}-{answers}")
        broken.folder.mkdir()
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(real, round_num, answers)), start)
        found = load_server(broken.folder / "checkpoint")
        assert (found.round if found else 0) == round_num
        run_rounds(broken, start)
        assert same_bits(left_behind(broken), whole), (round_num, answers)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("function", ["write_jsonl", "save_server"])
def test_a_kill_between_the_writes_of_a_round_changes_nothing(
    name, function, dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config(name, "local.steps=1")
    method, start = make_method(config), initial(dropping)
    engine = in_process(dropping, method)
    run = Run(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path / "whole")
    broken = replace(run, folder=tmp_path / "broken")
    run.folder.mkdir()
    broken.folder.mkdir()
    run_rounds(run, start)
    real = getattr(rounds, function)

    def once(*args: Any) -> None:
        if (isinstance(args[1], Server) and args[1].round == 2) or (isinstance(args[1], list) and len(args[1]) == 2):
            raise Killed
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, function, once)
        with pytest.raises(Killed):
            run_rounds(broken, start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), left_behind(run))


def test_a_finished_run_does_not_train_again(dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1")
    run = Run(
        config=config,
        method=FedAvg(),
        clients=tiny_clients,
        map_blocks=in_process(dropping, FedAvg()),
        folder=tmp_path,
    )
    first = run_rounds(run, initial(dropping))
    again = run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 0, 0)), initial(dropping))
    assert same_bits(first, again)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", METHODS)
def test_engines_and_block_sizes_agree(name, engine, double_model, tiny_clients, tiny_run_config, tmp_path):
    found = []
    for block_size in (1, 2, 8):
        config = tiny_run_config(name, f"local.block_size={block_size}", "federation.rounds=2")
        method = make_method(config)
        run = Run(
            config=config,
            method=method,
            clients=tiny_clients,
            map_blocks=ENGINES[engine](double_model, method),
            folder=tmp_path / str(block_size),
        )
        run.folder.mkdir()
        server = run_rounds(run, initial(double_model, torch.float64))
        states = [run.states.get(client, {}, 2) for client in range(6)]
        found.append([server.params, *(state[key] for state in states for key in state)])
    assert method.personal or max(t.abs().max() for t in found[0][0].values()) > 1e-2
    for other in found[1:]:
        assert len(other) == len(found[0])
        for a, b in zip(found[0], other, strict=True):
            assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_on_a_gpu_goes_on_from_states_that_lie_on_disk(
    name, tiny_folder, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, "federation.clients_per_round=6")
    model = load_model(config.model, config.lora, "cuda")
    method = make_method(config)
    run = Run(config=config, method=method, clients=tiny_clients, map_blocks=in_process(model, method), folder=tmp_path)
    with pytest.raises(Killed):
        run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 1, 1)), initial(model))
    server = run_rounds(run, initial(model))
    assert {tensor.device.type for tensor in server.params.values()} == {"cpu"}
    assert all(record["failures"] == [None] * 6 for record in read_jsonl(tmp_path / "rounds.jsonl"))


# Below, engines are scripted: what a client answers is known, so that means and records can be checked by hand.

START: Tree = {"w": torch.tensor([1.0, 2.0])}
Script = Callable[[ClientTask], ClientResult]


@dataclass
class Scripted:
    """An engine that answers by a script and remembers what it was asked."""

    script: Script
    asked: list[list[int]]
    rates: list[float]
    tasks: list[ClientTask]

    def __call__(self, message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        self.rates.append(local.lr)
        for block in blocks:
            self.asked.append([task.client for task in block])
            self.tasks += block
            yield [self.script(task) for task in block]


def delta(task: ClientTask, value: float, failure: str | None = None) -> ClientResult:
    return ClientResult(
        client=task.client,
        client_id=task.client_id,
        upload={} if failure else {"delta": {"w": torch.tensor([value, -value])}},
        state={},
        num_examples=len(task.row_numbers),
        losses=(3.0, 2.0) if not failure else (),
        failure=failure,
    )


def scripted_run(script: Script, config: RunConfig, clients: Any, folder: Path, **changes: Any) -> tuple[Run, Scripted]:
    engine = Scripted(script, [], [], [])
    method = changes.pop("method", make_method(config))
    return Run(config=config, method=method, clients=clients, map_blocks=engine, folder=folder, **changes), engine


def by_client(task: ClientTask) -> ClientResult:
    return delta(task, float(task.client + 1))


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_server_moves_by_the_weighted_mean(weighting, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1", f"federation.weighting={weighting}")
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    chosen = schedule(config, 6)[0]
    sizes = {k: len(tiny_clients.train_rows[tiny_clients.ids[k]]) if weighting == "examples" else 1 for k in chosen}
    mean = sum(sizes[k] * (k + 1) for k in chosen) / sum(sizes.values())
    assert server.params["w"].tolist() == pytest.approx([1 + mean, 2 - mean], rel=1e-6)


def test_records_say_who_did_what_at_which_cost(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg")
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [record["round"] for record in records] == [1, 2, 3]
    for number, (record, chosen) in enumerate(zip(records, schedule(config, 6), strict=True)):
        assert record["clients"] == chosen
        assert record["client_ids"] == [tiny_clients.ids[k] for k in chosen]
        assert record["num_examples"] == [len(tiny_clients.train_rows[tiny_clients.ids[k]]) for k in chosen]
        assert record["lr"] == config.local.lr_at(number, 3) == engine.rates[number]
        assert record["losses"] == [2.5] * 3
        assert record["steps"] == [2] * 3
        assert record["failures"] == [None] * 3
        assert record["bytes_up"] == record["bytes_down"] == 3 * 2 * 4  # clients, numbers, bytes of float32
        assert record["update_norm"] > 0
        assert record["seconds"] >= 0
    assert records[0]["lr"] == config.local.lr
    assert [record["lr"] for record in records] == sorted((record["lr"] for record in records), reverse=True)


def test_tasks_hold_the_clients_own_rows_and_the_plan_of_their_round(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", seed=2)
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    assert len(engine.tasks) == 9
    rows = tiny_clients.split.rows("train")
    for task in engine.tasks:
        owners = {rows[int(tiny_clients.tokens["train"].rows[number])].client_id for number in task.row_numbers}
        assert owners == {task.client_id} == {tiny_clients.ids[task.client]}
        assert [len(step) for step in task.steps] == [1, 1]
        assert all(len(micro) == 4 for step in task.steps for micro in step)
    assert [task.round_num for task in engine.tasks] == [0] * 3 + [1] * 3 + [2] * 3
    assert {task.seed for task in engine.tasks} == {2}


def test_blocks_are_filled_in_the_order_of_the_clients(tiny_clients, tiny_run_config, tmp_path):
    settings = ("federation.clients_per_round=5", "local.block_size=2", "federation.rounds=1")
    run, engine = scripted_run(by_client, tiny_run_config("fedavg", *settings), tiny_clients, tmp_path)
    run_rounds(run, START)
    assert [len(block) for block in engine.asked] == [2, 2, 1]
    assert [k for block in engine.asked for k in block] == schedule(run.config, 6)[0]


def fails_in_round(round_num: int, *clients: int) -> Script:
    def script(task: ClientTask) -> ClientResult:
        failed = task.round_num == round_num and task.client in clients
        return delta(task, float(task.client + 1), "loss nan is not finite at local step 1" if failed else None)

    return script


def test_a_failing_client_is_left_out_and_recorded(tiny_clients, tiny_run_config, tmp_path, caplog):
    fractions: list[float] = []

    class Noting(FedAvg):
        def update(self, server, mean, fraction):
            fractions.append(fraction)
            return super().update(server, mean, fraction)

    config = tiny_run_config("fedavg", "federation.rounds=1", "federation.weighting=uniform")
    first, *others = schedule(config, 6)[0]
    method = Noting(weighting="uniform")
    run, _ = scripted_run(fails_in_round(0, first), config, tiny_clients, tmp_path, method=method)
    with caplog.at_level(logging.WARNING):
        server = run_rounds(run, START)
    mean = sum(k + 1 for k in others) / 2
    assert server.params["w"].tolist() == pytest.approx([1 + mean, 2 - mean], rel=1e-6)
    assert fractions == [2 / 6]
    (record,) = read_jsonl(tmp_path / "rounds.jsonl")
    assert record["failures"] == ["loss nan is not finite at local step 1", None, None]
    assert record["losses"] == [None, 2.5, 2.5]
    assert record["bytes_up"] == 2 * 2 * 4
    assert record["bytes_down"] == 3 * 2 * 4
    assert f"round 1, client {tiny_clients.ids[first]}: loss nan" in caplog.text


def test_a_round_without_any_answer_stops_and_keeps_the_checkpoint(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg")
    run, _ = scripted_run(fails_in_round(1, *range(6)), config, tiny_clients, tmp_path)
    first = tiny_clients.ids[schedule(config, 6)[1][0]]
    with pytest.raises(UserError, match=rf"round 2: no client .*\(client {first}: loss nan") as caught:
        run_rounds(run, START)
    assert "\n" not in str(caught.value)
    server = load_server(tmp_path / "checkpoint")
    assert server is not None
    assert server.round == 1
    assert len(read_jsonl(tmp_path / "rounds.jsonl")) == 1
    assert torch.isfinite(server.params["w"]).all()


def test_the_state_of_a_failed_client_is_that_before_the_round(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("local", "federation.clients_per_round=6", "federation.rounds=2")
    fails = fails_in_round(1, 4)

    def script(task: ClientTask) -> ClientResult:
        state = {"own": {"w": torch.full((2,), 10.0 * task.round_num + task.client)}}
        return replace(fails(task), upload={}, state=state)

    run, engine = scripted_run(script, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    assert [run.states.get(k, {}, 2)["own"]["w"][0].item() for k in range(6)] == [10, 11, 12, 13, 4, 15]
    assert [task.state["own"]["w"][0].item() for task in engine.tasks] == [1.0] * 6 + [0, 1, 2, 3, 4, 5]


def test_local_sends_nothing_and_trains_only_who_is_asked_for(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("local", "federation.clients_per_round=6")

    def script(task: ClientTask) -> ClientResult:
        return replace(delta(task, 1.0), upload={}, state={"own": START})

    run, engine = scripted_run(script, config, tiny_clients, tmp_path, only=frozenset({1, 4}))
    server = run_rounds(run, START)
    assert {client for block in engine.asked for client in block} == {1, 4}
    assert torch.equal(server.params["w"], START["w"])
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [(r["bytes_up"], r["bytes_down"], r["update_norm"]) for r in records] == [(0, 0, 0)] * 3
    assert isinstance(run.method, Local)


def test_a_round_of_clients_without_rows_leaves_the_server_as_it_is(tiny_clients, tiny_run_config, tmp_path):
    """All rows of a client may be longer than the sequence length; 0 / 0 is no mean."""

    class Empty(type(tiny_clients)):
        train_rows = dict.fromkeys(tiny_clients.ids, ())

    clients = Empty(tiny_clients.split, tiny_clients.tokens)
    run, engine = scripted_run(lambda task: delta(task, 0.0), tiny_run_config("fedavg"), clients, tmp_path)
    server = run_rounds(run, START)
    assert torch.equal(server.params["w"], START["w"])
    assert all(task.steps == () for task in engine.tasks)


@pytest.mark.parametrize(
    ("block_size", "micro_batch", "length", "expected"), [(8, 8, 16, 8), (8, 8, 128, 2), (8, 8, 999, 1), (2, 1, 4, 2)]
)
def test_a_pass_holds_few_clients_of_long_rows(tiny_run_config, block_size, micro_batch, length, expected):
    config = tiny_run_config("fedavg", f"local.block_size={block_size}", f"local.micro_batch={micro_batch}")
    ids = np.zeros(3 * length, np.int32)
    rows = TokenPart(ids, ids > 0, np.arange(4, dtype=np.int64) * length, np.arange(3), num_cut=0, num_skipped=0)
    assert rounds.clients_per_pass(config, rows) == expected
