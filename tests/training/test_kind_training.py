"""Training of each kind of adapter: a plain loop with PEFT and torch, any grouping of clients, any interruption."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from block_runs import GROUPINGS, STEPS, gap, tasks_of
from kind_models import KINDS, load_kind, loss_of, plain_of, random_start, weights_of
from resumed_rounds import Killed, anew, killed_at, left_behind, same_bits, undisturbed
from sweeps import UNLIKE, sweep
from tiny import plain_steps, random_tree, settings

from fedllm_bench.common.trees import norm, num_bytes, tmap
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.aggregation import Mean
from fedllm_bench.training.block import train_block
from fedllm_bench.training.budget import bytes_down
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.rounds import run_rounds

OF_LORA = {"hetlora", "fedrep"}  # one speaks of B A, the other is for parts of an adapter: what is refused


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def singles(tiny_folder):
    """The models in float32, by kind."""
    return cache(lambda kind: load_kind(tiny_folder, kind))


@pytest.fixture(scope="module")
def double(kind, tiny_folder):
    return load_kind(tiny_folder, kind, "float64")


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold"])
def test_a_client_is_plain_peft_in_a_plain_loop(name, kind, double, tiny_folder, tiny_run_config):
    """All clients in one pass here, one after another there; the gradient is corrected by the method's equation."""
    method, local = make_method(tiny_run_config(name)), settings(lr=1e-3, weight_decay=0.1, clip=0.5)
    start = random_start(double)
    message = method.broadcast(replace(method.init(start)))
    tasks = tasks_of(method, start, local)
    before = weights_of(double)
    for task, ours in zip(tasks, train_block(double, method, message, tasks, local), strict=True):
        theirs, parameters = plain_of(tiny_folder, kind, start, torch.float64)

        def correct(task=task, parameters=parameters) -> None:
            grads = {name: p.grad for name, p in parameters.items()}
            y = {name: p.detach() for name, p in parameters.items()}
            for name, grad in method.correct(grads, y, message, task.known).items():
                parameters[name].grad = grad

        losses = plain_steps(parameters, task, local, lambda rows, m=theirs: loss_of(m, kind, rows), correct)
        assert ours.losses == pytest.approx(losses, rel=1e-9)
        for part, parameter in parameters.items():
            moved = parameter.detach() - start[part]
            assert torch.allclose(ours.upload["delta"][part], moved, rtol=0, atol=1e-6)
        assert not losses or norm(ours.upload["delta"]) > 1e-3
    assert all(torch.equal(tensor, before[part]) for part, tensor in weights_of(double).items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_clients_at_once_are_the_clients_one_by_one(checkpointing, kind, double):
    local = settings(accumulation=2, clip=0.5)
    start, tasks = random_start(double), None
    tasks = tasks_of(FedAvg(), start, local)
    alone = [train_block(double, FedAvg(), {"params": start}, [task], local)[0] for task in tasks]
    again = replace(local, gradient_checkpointing=checkpointing)
    for group in (group for grouping in GROUPINGS for group in grouping):
        together = train_block(double, FedAvg(), {"params": start}, [tasks[k] for k in group], again)
        for k, result in zip(group, together, strict=True):
            assert gap(alone[k], result) < 1e-10


def test_equal_clients_are_the_identity_of_the_mean(kind, double):
    """A mean of prompts is a plain mean of numbers: it is what each of equal clients has."""
    local, start = settings(), random_start(double)
    task = tasks_of(FedAvg(), start, local, clients=(0,))[0]
    results = train_block(double, FedAvg(), {"params": start}, [task, task, task], local)
    mean = Mean({}, {})
    for result in results:
        mean = mean.add(result, result.num_examples)
    server = FedAvg().update(FedAvg().init(start), mean.value(), 1.0)
    own = tmap(torch.add, start, results[0].upload["delta"])
    assert all(torch.allclose(server.params[name], own[name], rtol=0, atol=1e-14) for name in own)
    assert num_bytes(results[0].upload) == bytes_down(FedAvg(), server, {"params": start}, 0)


CASES = [(kind, name) for kind in KINDS for name in METHODS if name not in OF_LORA]
QUICK = [*(("prefix", name) for name in UNLIKE), *((kind, "scaffold") for kind in KINDS if kind != "prefix")]


@pytest.mark.parametrize(("kind", "name"), sweep(CASES, *QUICK))
def test_every_method_trains_every_kind_and_goes_on_after_a_kill(
    kind, name, singles, tiny_clients, tiny_run_config, tmp_path
):
    model = singles(kind)
    config = tiny_run_config(name, "local.block_size=2", "local.steps=1", "federation.rounds=2")
    config = replace(config, adapter=KINDS[kind])
    run, start, whole = undisturbed(model, tiny_clients, config, tmp_path)
    assert whole["server"].round == 2
    broken = anew(run, "broken")
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, 1, 0)), start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)
    first = initial_adapter(model.layers, rank=4, seed=0)
    assert run.method.personal or any(not torch.equal(whole["server"].params[n], first[n]) for n in first)


def test_losses_fall(kind, singles):
    model = singles(kind)
    start = initial_adapter(model.layers, rank=4, seed=0)
    local = settings(lr=3e-2, micro_batch=5)
    tasks = tasks_of(FedAvg(), start, local, clients=(0,), steps={**STEPS, 0: 12})
    (result,) = train_block(model, FedAvg(), {"params": start}, tasks, local)
    assert result.losses[-1] < result.losses[0] - 0.1
    assert random_tree(start, seed=1).keys() == result.upload["delta"].keys()
