"""Resumed runs are undisturbed ones bit by bit; engines, groupings and orders of arrival agree; for every method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeps import UNLIKE, sweep

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, norm
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Message, Server
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import rounds
from fedllm_bench.training.block import ClientResult, MapBlocks
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import Run


class Killed(Exception):
    pass


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


def undisturbed(
    model: LoraModel, clients: Clients, config: RunConfig, folder: Path
) -> tuple[Run, Tree, dict[str, Any]]:
    """A whole run below `folder`, the adapter that it began with, and all that it left."""
    method, start = make_method(config), initial(model)
    engine = in_process(model, method, config)
    run = Run(config=config, method=method, clients=clients, map_blocks=engine, folder=folder / "whole")
    run.folder.mkdir()
    run_rounds(run, start)
    return run, start, left_behind(run)


def anew(run: Run, name: str) -> Run:
    """The same run in an empty folder of this name."""
    folder = run.folder.with_name(name)
    folder.mkdir()
    return replace(run, folder=folder)


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
    name, dropping, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, "local.block_size=1", "local.steps=1")
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    assert whole["server"].round == 3
    for round_num, answers in [(0, 2), (1, 0), (2, 1), (2, 3)]:
        broken = anew(run, f"{round_num}-{answers}")
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, round_num, answers)), start)
        found = load_server(broken.folder / "checkpoint")
        assert (found.round if found else 0) == round_num
        run_rounds(broken, start)
        assert same_bits(left_behind(broken), whole), (round_num, answers)


@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
@pytest.mark.parametrize("function", ["write_jsonl", "save_server"])
def test_a_kill_between_the_writes_of_a_round_changes_nothing(
    name, function, dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config(name, "local.steps=1")
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    broken = anew(run, "broken")
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
    assert same_bits(left_behind(broken), whole)


def test_a_finished_run_does_not_train_again(dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1")
    run = Run(
        config=config,
        method=FedAvg(),
        clients=tiny_clients,
        map_blocks=in_process(dropping, FedAvg(), config),
        folder=tmp_path,
    )
    first = run_rounds(run, initial(dropping))
    again = run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 0, 0)), initial(dropping))
    assert same_bits(first, again)


def outcome_of(run: Run, start: Tree) -> list[Tree]:
    """The server's parameters and all clients' states after the run, in an empty folder."""
    run.folder.mkdir()
    server = run_rounds(run, start)
    states = [run.states.get(client, {}, server.round) for client in range(len(run.clients))]
    assert run.method.personal or max(t.abs().max() for t in server.params.values()) > 1e-2
    return [server.params, *(state[key] for state in states for key in state)]


def distance(ours: list[Tree], theirs: list[Tree]) -> float:
    """The largest difference of any number."""
    assert len(ours) == len(theirs) > 0
    return max((a[n] - b[n]).abs().max().item() for a, b in zip(ours, theirs, strict=True) for n in a)


CASES = [(name, engine) for name in METHODS for engine in ENGINES]
QUICK = [(name, "inprocess") for name in UNLIKE]


@pytest.mark.parametrize(("name", "engine"), sweep(CASES, *QUICK))
def test_engines_and_block_sizes_agree(name, engine, double_model, tiny_clients, tiny_run_config, tmp_path):
    def run(engine: str, block_size: int) -> list[Tree]:
        config = tiny_run_config(name, f"local.block_size={block_size}", "federation.rounds=2")
        method, folder = make_method(config), tmp_path / f"{engine}-{block_size}"
        blocks = ENGINES[engine](double_model, method, config)
        whole = Run(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        return outcome_of(whole, initial(double_model, torch.float64))

    reference = run("inprocess", 1)
    if engine == "inprocess":
        for block_size in (2, 8):
            assert distance(run(engine, block_size), reference) < 1e-11
        return
    # float32 inside: Adam turns rounding of near-zero gradients into steps, so the norm decides
    other = run(engine, 1)
    assert len(other) == len(reference)
    for ours, theirs in zip(other, reference, strict=True):
        gap = {name: ours[name] - theirs[name] for name in ours}
        assert norm(gap) < 1e-3 * norm(theirs)


@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
def test_the_order_in_which_blocks_arrive_changes_no_bit(name, dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(name, "local.block_size=1", "federation.rounds=2")
    method = make_method(config)
    real = in_process(dropping, method, config)

    def backwards(message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        return reversed(list(real(message, blocks, local)))

    run = Run(config=config, method=method, clients=tiny_clients, map_blocks=real, folder=tmp_path / "forwards")
    forwards = outcome_of(run, initial(dropping))
    turned = outcome_of(replace(run, map_blocks=backwards, folder=tmp_path / "backwards"), initial(dropping))
    assert same_bits(forwards, turned)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_on_a_gpu_goes_on_from_states_that_lie_on_disk(
    name, tiny_folder, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, "federation.clients_per_round=6")
    model = load_model(config.model, config.lora, "cuda")
    method = make_method(config)
    engine = in_process(model, method, config)
    run = Run(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path)
    with pytest.raises(Killed):
        run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 1, 1)), initial(model))
    server = run_rounds(run, initial(model))
    assert {tensor.device.type for tensor in server.params.values()} == {"cpu"}
    assert all(record["failures"] == [None] * 6 for record in read_jsonl(tmp_path / "rounds.jsonl"))
