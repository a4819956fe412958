"""Hooks that change how a round goes: phases, what one client is told, what travels, all uploads at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from block_runs import start_of, tasks_of
from resumed_rounds import initial, left_behind, same_bits
from tiny import settings

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, num_bytes, tmap
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Server, Upload, weighted_mean
from fedllm_bench.methods.wrapped import Wrapped
from fedllm_bench.training.aggregation import Mean
from fedllm_bench.training.block import train_block
from fedllm_bench.training.budget import Traffic
from fedllm_bench.training.checkpoint import Partial, load_partial, save_partial
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun


@dataclass(frozen=True, kw_only=True)
class FirstHalf(FedAvg):
    def finish(self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float) -> Any:
        return {"middle": y}, {"first": y}


@dataclass(frozen=True, kw_only=True)
class SecondHalf(FedAvg):
    def start(self, message: Message, client: ClientState) -> Tree:
        return client["middle"]


@dataclass(frozen=True, kw_only=True)
class Halves(FedAvg):
    """Local training in two parts, each with an optimiser of its own."""

    def client_init(self, params: Tree) -> ClientState:
        return {"middle": params}

    def phases(self, steps: int) -> tuple[Phase, ...]:
        half = steps // 2
        return Phase(FirstHalf(), tuple(range(half))), Phase(SecondHalf(), tuple(range(half, steps)))


@dataclass(frozen=True, kw_only=True)
class Telling(FedAvg):
    """FedAvg, whose server tells each client its number, and sends B alone."""

    needs_all: ClassVar[bool] = True

    def tell(self, server: Server, client: int) -> Message:
        return {"number": {"n": torch.tensor([float(client + 1)])}}

    def travels(self, message: Message, told: Message) -> Message:
        return {"params": {name: t for name, t in message["params"].items() if ".lora_B." in name}}

    def correct(self, grads: Tree, y: Tree, message: Message, client: ClientState) -> Tree:
        return tmap(lambda g: g * client["number"]["n"], grads)


@pytest.fixture(scope="module")
def dropping(load_tiny: Any) -> Any:
    return load_tiny(dropout=0.3, dtype="float64")


@pytest.mark.parametrize("method", [Halves(), Wrapped(inner=Halves())])
def test_phases_are_trainings_one_after_another(method, dropping):
    local, start = settings(accumulation=2), start_of(dropping)
    message = {"params": start}
    tasks = tasks_of(Halves(), start, local)
    for task, found in zip(tasks, train_block(dropping, method, message, tasks, local), strict=True):
        half = len(task.steps) // 2
        (first,) = train_block(dropping, FirstHalf(), message, [replace(task, steps=task.steps[:half])], local)
        rest = replace(task, steps=task.steps[half:], state=first.state, done=half)
        (second,) = train_block(dropping, SecondHalf(), message, [rest], local)
        assert set(found.upload) == {"first", "delta"}
        for key in found.upload:
            assert gap((first.upload | second.upload)[key], found.upload[key]) < 1e-11
        assert found.losses == pytest.approx((*first.losses, *second.losses), rel=1e-9)


def gap(one: Tree, other: Tree) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_masks_of_a_later_phase_are_not_those_of_the_first(dropping):
    local, start = settings(), start_of(dropping)
    task = tasks_of(FedAvg(), start, local)[0]
    first, later = (
        train_block(dropping, FedAvg(), {"params": start}, [replace(task, done=done)], local)[0] for done in (0, 7)
    )
    assert first.losses[0] != later.losses[0]


def test_a_client_that_fails_in_a_later_phase_sends_nothing(dropping):
    @dataclass(frozen=True, kw_only=True)
    class Broken(SecondHalf):
        def start(self, message: Message, client: ClientState) -> Tree:
            return tmap(lambda t: t * float("nan"), client["middle"])

    @dataclass(frozen=True, kw_only=True)
    class Failing(Halves):
        def phases(self, steps: int) -> tuple[Phase, ...]:
            return super().phases(steps)[0], Phase(Broken(), tuple(range(steps // 2, steps)))

    local, start = settings(), start_of(dropping)
    task = next(task for task in tasks_of(Halves(), start, local) if len(task.steps) > 1)
    (found,) = train_block(dropping, Failing(), {"params": start}, [task], local)
    assert f"not finite at local step {len(task.steps) // 2 + 1}" in str(found.failure)
    assert found.upload == {}
    assert found.state is task.state


@pytest.mark.parametrize("engine", ["inprocess", "trl"])
def test_what_a_client_is_told_reaches_its_hooks_and_is_no_state(
    engine, double_model, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config("fedavg", "federation.rounds=2", "local.steps=1", "local.optimizer=sgd", "local.clip=1e9")
    run, server = trained(Telling(), engine, double_model, tiny_clients, config, tmp_path / "told")
    _, other = trained(FedAvg(), engine, double_model, tiny_clients, config, tmp_path / "plain")
    assert not same_bits(server.params, other.params)
    record = read_jsonl(run.folder / "rounds.jsonl")[0]
    sent = {name: tensor for name, tensor in initial(double_model, torch.float64).items() if ".lora_B." in name}
    assert record["bytes_down"] == num_bytes({"params": sent}) * len(record["clients"])
    down, up = Traffic(run.method, initial(double_model, torch.float64), 0.1).of_client(0, 3)
    assert down * len(record["clients"]) == record["bytes_down"]
    assert up * len(record["clients"]) == record["bytes_up"]
    assert not list((run.folder / "checkpoint").rglob("r*.safetensors"))  # no state of a client


def trained(method: FedAvg, engine: str, model: Any, clients: Any, config: Any, folder: Path) -> Any:
    folder.mkdir()
    blocks = ENGINES[engine](model, method, config)
    run = TrainingRun(config=config, method=method, clients=clients, map_blocks=blocks, folder=folder)
    return run, run_rounds(run, initial(model, torch.float64))


@dataclass(frozen=True, kw_only=True)
class AtOnce(FedAvg):
    needs_all: ClassVar[bool] = True


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_all_uploads_at_once_have_the_same_mean(weighting, dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", f"federation.weighting={weighting}", "federation.rounds=2")
    found = []
    for kind in (FedAvg, AtOnce):
        method = kind(weighting=weighting)
        run, _ = trained(method, "inprocess", dropping, tiny_clients, config, tmp_path / kind.__name__)
        found.append(left_behind(run))
    assert same_bits(found[0]["server"], found[1]["server"])


def test_the_weighted_mean_is_the_running_one():
    uploads: list[Upload] = [
        {key: {"w": torch.randn(5, generator=torch.Generator().manual_seed(k))} for key in ("delta", "dc")}
        for k in range(4)
    ]
    for weights in ([3.0, 1.0, 2.0, 5.0], [0.0] * 4):
        mean = Mean({}, {})
        for k, (upload, weight) in enumerate(zip(uploads, weights, strict=True)):
            one = ClientResult(client=k, client_id=str(k), upload=upload, state={}, num_examples=1, losses=())
            mean = mean.add(one, weight)
        assert same_bits(weighted_mean(uploads, weights), mean.value())


def test_uploads_of_an_interrupted_round_are_kept(tmp_path):
    uploads: tuple[Upload, ...] = tuple({"delta": {"w": torch.full((2,), float(k))}} for k in range(3))
    partial = Partial(results=({"client": 1},), seconds=1.5, uploads=uploads, shares=(1.0, 2.0, 4.0))
    save_partial(tmp_path, 4, partial)
    found = load_partial(tmp_path, 4)
    assert same_bits(list(found.uploads), list(uploads))
    assert replace(found, uploads=()) == replace(partial, uploads=())
    assert load_partial(tmp_path, 5) == Partial()
