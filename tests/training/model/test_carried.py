"""A base that carries a change while clients train: what it computes, and that nothing of it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from block_runs import gap, start_of, tasks_of
from tiny import ALL_LINEAR, random_tree, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.products.exact import Exact
from fedllm_bench.methods.products.factors import pairs_of, tree_of
from fedllm_bench.training.block import train_block
from fedllm_bench.training.model.carried import plain_layers, principal_adapter
from fedllm_bench.training.model.lora import PREFIX, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

SCALE = 2.0  # alpha / r of the tiny models
RANK = 11  # of the change: neither that of the adapter nor a multiple of it


def change_of(model: LoraModel, seed: int = 3) -> Tree:
    return random_tree(initial_adapter(model.layers, rank=RANK, seed=0), seed=seed, scale=0.1)


def weights_of(model: LoraModel) -> dict[str, torch.nn.Parameter]:
    return {name: plain.layer.weight for name, plain in plain_layers(model.layers).items()}


def with_change(model: LoraModel, change: Tree) -> LoraModel:
    """Another copy of a model, with the change added to its weights for good."""
    for name, plain in plain_layers(model.layers).items():
        a, b = (change[f"{PREFIX}{name}.lora_{letter}.weight"] for letter in "AB")
        plain.layer.weight.data += SCALE * b @ a
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
def test_clients_train_on_the_base_plus_the_change(checkpointing, load_tiny):
    model, local = load_tiny(dtype="float64"), settings(gradient_checkpointing=checkpointing)
    change, start = change_of(model), start_of(model)
    tasks = tasks_of(FedAvg(), start, local)
    own = weights_of(model)
    copies = {name: weight.detach().clone() for name, weight in own.items()}
    ours = train_block(model, FedAvg(), {"params": start, "residual": change}, tasks, local)
    assert all(weights_of(model)[name] is weight and torch.equal(weight, copies[name]) for name, weight in own.items())
    merged = with_change(load_tiny(dtype="float64"), change)
    theirs = train_block(merged, FedAvg(), {"params": start}, tasks, local)
    plain = train_block(model, FedAvg(), {"params": start}, tasks, local)
    for one, other, without in zip(ours, theirs, plain, strict=True):
        assert gap(one, other) < 1e-10
        assert not one.losses or abs(one.losses[0] - without.losses[0]) > 1e-3


def test_weights_are_back_after_an_exception(load_tiny):
    class Broken(FedAvg):
        def correct(self, *args):
            raise KeyboardInterrupt

    model, local = load_tiny(), settings()
    own, start = weights_of(model), {name: t.float() for name, t in start_of(model).items()}
    message = {"params": start, "residual": change_of(model)}
    with pytest.raises(KeyboardInterrupt):
        train_block(model, Broken(), message, tasks_of(FedAvg(), start, local), local)
    assert all(weights_of(model)[name] is weight for name, weight in own.items())


def test_the_blocks_of_a_round_share_the_weights_and_another_round_has_its_own(load_tiny):
    model, seen = load_tiny(), []

    class Noting(FedAvg):
        def start(self, message, client):
            assert set(message) == {"params"}
            seen.append(weights_of(model))
            return message["params"]

    start = {name: t.float() for name, t in start_of(model).items()}
    first, second = change_of(model), change_of(model, seed=4)
    for change in (first, first, second):
        task = replace(tasks_of(FedAvg(), start, settings())[0], steps=())
        planned = replace(model, plan=replace(model.plan, tokens=64))  # as an engine gives each block its plan
        train_block(planned, Noting(), {"params": start, "residual": change}, [task], settings())
    assert all(seen[0][name] is seen[1][name] and seen[0][name] is not seen[2][name] for name in seen[0])
    assert len(seen[0]) == 14


def test_the_sum_has_the_type_of_the_base(load_tiny):
    model, change = load_tiny(dtype="bfloat16"), change_of(load_tiny())
    change = {name: tensor.float() for name, tensor in change.items()}
    with model.carrying(change):
        carried = weights_of(model)
    for name, weight in weights_of(model).items():
        a, b = (change[f"{PREFIX}{name}.lora_{letter}.weight"] for letter in "AB")
        assert carried[name].dtype == torch.bfloat16
        assert torch.equal(carried[name], (weight.float() + SCALE * b @ a).bfloat16())


def test_one_adapter_is_the_change_and_the_adapter_together(double_model):
    """Base + s B A of the wide adapter gives what the carried base gives under the small one."""
    model, small = double_model, start_of(double_model)
    rule = Exact(inner=FedAvg())
    server = Server(small, {"residual": change_of(model)})
    wide = rule.adapter(server)
    ids = torch.arange(4, 24).view(2, 10)
    with model.using(wide):
        whole = model.logits(model.hidden(ids))
    with model.carrying(server.slots["residual"]), model.using(small):
        parts = model.logits(model.hidden(ids))
    assert float((whole - parts).abs().max()) < 1e-11
    with model.using(small):
        assert float((model.logits(model.hidden(ids)) - whole).abs().max()) > 1e-2
    assert {len(a) for a, _ in pairs_of(wide).values()} == {16}  # 4 + 11, as a multiple of 4
    assert list(wide) == list(tree_of(pairs_of(small)))


def test_the_principal_adapter_is_the_main_part_of_each_weight(tiny_model):
    tree = principal_adapter(tiny_model.layers, 4)
    for name, weight in weights_of(tiny_model).items():
        a, b = (tree[f"{PREFIX}{name}.lora_{letter}.weight"] for letter in "AB")
        u, values, v = torch.linalg.svd(weight.detach(), full_matrices=False)
        assert torch.allclose(SCALE * b @ a, u[:, :4] @ torch.diag(values[:4]) @ v[:4], atol=1e-5)
        assert torch.allclose(b.norm(dim=0), a.norm(dim=1), rtol=1e-4)
    assert list(tree) == list(initial_adapter(tiny_model.layers, rank=4, seed=0))


def test_layers_that_are_not_plain_are_refused(load_tiny):
    from fedllm_bench.training.model.lora import LoraLinear

    class Other(torch.nn.Linear):
        pass

    model = load_tiny(targets=ALL_LINEAR)
    layers = {"l": LoraLinear(Other(2, 2), 1.0, model.switch)}
    with pytest.raises(UserError, match="l is a Other, no plain linear layer"):
        plain_layers(layers)
