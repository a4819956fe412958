"""Rounds of a tiny model that are killed anywhere and gone on with."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.interrupts import Stop
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.clients import Clients
from fedllm_bench.methods.base import Message, Server
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.client_round import ClientResult, MapBlocks
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun


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


def asked_in(stop: Stop, real: MapBlocks, round_num: int, block: int) -> MapBlocks:
    """An engine in whose round and block the signal comes."""

    def map_blocks(message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        def noting() -> Iterable[Any]:
            for number, tasks in enumerate(blocks):
                if (tasks[0].round_num, number) == (round_num, block):
                    stop.signum = signal.SIGINT
                yield tasks

        return real(message, noting(), local)

    return map_blocks


def left_behind(run: TrainingRun) -> dict[str, Any]:
    """All that a run leaves, without its times."""
    server = load_server(run.folder / "checkpoint")
    assert server is not None
    records = [{k: v for k, v in r.items() if k != "seconds"} for r in read_jsonl(run.folder / "rounds.jsonl")]
    states = [run.states.get(client, {}, server.round) for client in range(len(run.clients))]
    return {"server": server, "records": records, "states": states}


def undisturbed(
    model: LoraModel, clients: Clients, config: RunConfig, folder: Path
) -> tuple[TrainingRun, Tree, dict[str, Any]]:
    """A whole run below `folder`, the adapter that it began with, and all that it left."""
    method, start = make_method(config, len(clients)), initial(model)
    engine = in_process(model, method, config)
    run = TrainingRun(config=config, method=method, clients=clients, map_blocks=engine, folder=folder / "whole")
    run.folder.mkdir()
    run_rounds(run, start)
    return run, start, left_behind(run)


def anew(run: TrainingRun, name: str) -> TrainingRun:
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


def outcome_of(run: TrainingRun, start: Tree) -> list[Tree]:
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
