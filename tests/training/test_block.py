"""`train_block`: K clients at once are the same clients one by one, and both are a plain loop with PEFT and torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from block_runs import GROUPINGS, ROWS, gap, planned_steps, start_of, tasks_of
from sweeps import UNLIKE, sweep
from tiny import (
    CPU,
    adapter_parameters,
    plain_loss,
    plain_peft,
    plain_steps,
    random_tree,
    settings,
)

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.config.run import Local
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedprox import FedProx
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import block
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.losses.objectives import OBJECTIVES
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.steps.step_passes import mask_stream


@dataclass(frozen=True, kw_only=True)
class Reporting(FedAvg):
    """FedAvg that also uploads the mean gradient which `finish` was given."""

    def finish(self, message, client, y, mean_grad, steps, lr):
        client, upload = super().finish(message, client, y, mean_grad, steps, lr)
        return client, {**upload, "mean_grad": mean_grad}


@pytest.fixture(scope="module")
def dropping(load_tiny) -> LoraModel:
    return load_tiny(dropout=0.3, dtype="float64")


CASES = [(name, optimizer) for name in METHODS for optimizer in ("adamw", "sgd")]
QUICK = [*((name, "adamw") for name in UNLIKE), ("scaffold", "sgd")]


@pytest.mark.parametrize(("name", "optimizer"), sweep(CASES, *QUICK))
def test_clients_at_once_are_the_clients_one_by_one(name, optimizer, dropping, tiny_run_config):
    """In any grouping and order, with unequal numbers of steps, accumulation and dropout."""
    local = settings(optimizer=optimizer, accumulation=2, weight_decay=0.1, clip=0.5)
    method = make_method(tiny_run_config(name))
    start = start_of(dropping)
    message = method.broadcast(method.init(start))
    tasks = tasks_of(method, start, local)
    alone = [train_block(dropping, method, message, [task], local)[0] for task in tasks]
    assert [len(result.losses) for result in alone] == planned_steps(method)
    for grouping in GROUPINGS:
        for group in grouping:
            together = train_block(dropping, method, message, [tasks[k] for k in group], local)
            for k, result in zip(group, together, strict=True):
                assert gap(alone[k], result) < 1e-11
                assert result.losses == pytest.approx(alone[k].losses, rel=1e-6)


def test_a_block_is_the_same_twice_and_dropout_changes_with_the_round(dropping):
    local = settings()
    start = start_of(dropping)
    tasks = tasks_of(FedAvg(), start, local)
    first, again = (train_block(dropping, FedAvg(), {"params": start}, tasks, local) for _ in range(2))
    assert [a.losses for a in first] == [b.losses for b in again]
    assert max(gap(a, b) for a, b in zip(first, again, strict=True)) == 0.0
    for change in ({"round_num": 3}, {"seed": 6}, {"client": 9}):
        other = train_block(dropping, FedAvg(), {"params": start}, [replace(tasks[0], **change)], local)
        assert other[0].losses[0] != first[0].losses[0]  # the same rows and weights: only the masks differ


def plain_loop(folder, start: Tree, task: ClientTask, local: Local, mu: float) -> tuple[Tree, list[float], Tree]:
    """Local training with PEFT, torch.optim.AdamW and clip_grad_norm_: the end, losses, mean raw gradient."""
    model = plain_peft(folder, start, torch.float64)
    parameters = adapter_parameters(model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def pull() -> None:
        for name, p in parameters.items():
            total[name] += p.grad / len(task.steps)
            p.grad += mu * (p.detach() - start[name])

    losses = plain_steps(parameters, task, local, lambda rows: plain_loss(model, rows), pull)
    return {name: p.detach() for name, p in parameters.items()}, losses, total


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("clip", [0.3, 1e9])
def test_training_is_that_of_peft_and_torch(mu, clip, double_model, tiny_folder):
    local = settings(clip=clip, weight_decay=0.05, accumulation=2)
    start = start_of(double_model)
    task = tasks_of(FedAvg(), start, local)[2]
    method = FedProx(mu=mu) if mu else FedAvg()
    result = train_block(double_model, method, {"params": start}, [task], local)[0]
    end, losses, _ = plain_loop(tiny_folder, start, task, local, mu)
    moved = tmap(torch.sub, end, {name: start[name] for name in end})
    assert max(t.abs().max().item() for t in moved.values()) > 1e-2
    for name, tensor in moved.items():
        assert torch.allclose(result.upload["delta"][name], tensor, rtol=0, atol=1e-9), name
    assert result.losses == pytest.approx(losses, rel=1e-6)


def test_finish_is_given_the_mean_gradient_before_correction_and_clipping(double_model, tiny_folder):
    local = settings(clip=0.01)
    start = start_of(double_model)
    tasks = tasks_of(Reporting(), start, local, clients=(0, 2))
    results = train_block(double_model, Reporting(), {"params": start}, tasks, local)
    for task, result in zip(tasks, results, strict=True):
        _, _, mean_grad = plain_loop(tiny_folder, start, task, local, mu=0.0)
        for name, tensor in mean_grad.items():
            assert torch.allclose(result.upload["mean_grad"][name], tensor, rtol=1e-7, atol=1e-11), name


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(1, 8), (2, 4), (4, 2)])
def test_accumulation_is_one_big_batch(micro_batch, accumulation, double_model):
    """Also where micro-batches have unlike numbers of counted tokens."""
    local = settings(micro_batch=micro_batch, accumulation=accumulation)
    whole = settings(micro_batch=8, accumulation=1)
    start = start_of(double_model)
    results = [
        train_block(double_model, FedAvg(), {"params": start}, tasks_of(FedAvg(), start, each), each)
        for each in (local, whole)
    ]
    assert max(gap(a, b) for a, b in zip(*results, strict=True)) < 1e-11
    for a, b in zip(*results, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-6)


def test_a_step_lowers_the_loss_on_its_own_rows(tiny_model):
    local = settings(lr=3e-3)
    start = random_tree(initial_adapter(tiny_model.layers, rank=4, seed=0), seed=6, dtype=torch.float32)
    task = tasks_of(FedAvg(), start, local)[0]
    task = replace(task, steps=task.steps[:1] * 8)
    losses = train_block(tiny_model, FedAvg(), {"params": start}, [task], local)[0].losses
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", METHODS)
def test_the_base_and_the_message_are_as_before(name, load_tiny, tiny_run_config):
    model, method = load_tiny(dropout=0.1), make_method(tiny_run_config(name))
    base = {key: tensor.clone() for key, tensor in model.base.state_dict().items()}
    start = initial_adapter(model.layers, rank=4, seed=0)
    before = tmap(torch.clone, start)
    local = settings()
    tasks = [replace(task, state=method.client_init(start)) for task in tasks_of(method, start, local)]
    train_block(model, method, method.broadcast(method.init(start)), tasks, local)
    assert all(torch.equal(tensor, base[key]) for key, tensor in model.base.state_dict().items())
    assert all(torch.equal(tensor, before[key]) for key, tensor in start.items())
    assert all(layer.a_KrI is None for layer in model.layers.values())
    assert model.switch.masks is None


def failing(monkeypatch, at_step: int, client: int, factor: float) -> None:
    """From local step `at_step` the loss of one client of the block is multiplied by `factor`."""
    real, objective = block._step_gradients, OBJECTIVES["sft"]

    def noted(model, layout, y_KP, tasks, number, local):
        factors = torch.tensor([factor if task.client == client and number >= at_step else 1.0 for task in tasks])
        spoilt = replace(objective, losses=lambda *args: objective.losses(*args) * factors)
        monkeypatch.setitem(OBJECTIVES, "sft", spoilt)
        return real(model, layout, y_KP, tasks, number, local)

    monkeypatch.setattr(block, "_step_gradients", noted)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("at_step", [0, 1])
def test_a_client_whose_loss_is_not_finite_fails_alone(at_step, factor, double_model, monkeypatch):
    local = settings()
    start = start_of(double_model)
    tasks = tasks_of(FedAvg(), start, local)
    healthy = train_block(double_model, FedAvg(), {"params": start}, tasks, local)
    failing(monkeypatch, at_step, client=0, factor=factor)
    results = train_block(double_model, FedAvg(), {"params": start}, tasks, local)
    assert f"local step {at_step + 1}" in str(results[0].failure)
    assert results[0].upload == {}
    assert results[0].losses == pytest.approx(healthy[0].losses[:at_step])
    assert all(gap(a, b) < 1e-11 for a, b in zip(healthy[1:], results[1:], strict=True))
    assert all(torch.isfinite(t).all() for result in results[1:] for t in result.upload["delta"].values())


def test_a_block_of_failed_clients_ends_early_and_keeps_their_states(double_model, tiny_run_config):
    method = make_method(tiny_run_config("local"))
    start = start_of(double_model)
    state = {"own": tmap(lambda t: torch.full_like(t, float("inf")), start)}
    tasks = [replace(task, state=state) for task in tasks_of(method, start, settings())][:2]
    results = train_block(double_model, method, {"params": start}, tasks, settings())
    name = next(iter(start))
    for result in results:
        assert "local step 1" in str(result.failure)
        assert result.losses == ()
        assert result.upload == {}
        assert torch.equal(result.state["own"][name], state["own"][name])


def test_a_finite_loss_with_a_gradient_that_is_not_is_a_failure(double_model, monkeypatch):
    """An update of NaN with a good-looking loss would spoil the mean of all clients."""
    start = start_of(double_model)
    tasks = tasks_of(FedAvg(), start, settings())[:2]
    real = block._step_gradients

    def spoilt(*args):
        losses, grad = real(*args)
        grad[0, 3] = float("nan")
        return losses, grad

    monkeypatch.setattr(block, "_step_gradients", spoilt)
    results = train_block(double_model, FedAvg(), {"params": start}, tasks, settings())
    assert "not finite at local step 1" in str(results[0].failure)


@pytest.mark.parametrize("name", METHODS)
def test_a_clients_answer_is_its_own_memory(name, double_model, tiny_run_config):
    """A view into the block would keep the tensors of all K clients alive."""
    method, start = make_method(tiny_run_config(name)), start_of(double_model)
    message = method.broadcast(method.init(start))
    results = train_block(double_model, method, message, tasks_of(method, start, settings()), settings())
    tensors = [t for r in results for trees in (r.upload, r.state) for tree in trees.values() for t in tree.values()]
    assert len(tensors) >= len(ROWS)  # of FedKSeed one each
    for tensor in tensors:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert not tensor.requires_grad


def test_no_two_steps_share_their_dropout_masks(double_model):
    task = tasks_of(FedAvg(), start_of(double_model), settings())[0]
    seeds = {
        mask_stream(replace(task, seed=seed, round_num=round_num, client=client), number, place, CPU).initial_seed()
        for seed, round_num, client, number, place in itertools.product(range(4), repeat=5)
    }
    assert len(seeds) == 4**5
