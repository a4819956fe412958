"""A bfloat16 base on a CPU: adapters stay float32, move in float32, and losses are those of the float32 base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_runs import quick, run
from tiny import client_task, random_part, random_tree, settings

from fedllm_bench.common import files
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.block import train_block
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

EPS = torch.finfo(torch.bfloat16).eps  # 2^-7: a number is rounded by half of it at most, relative to itself
PART = random_part(seed=11, num_rows=24)
LOCAL = settings(optimizer="sgd", lr=1e-4, clip=1e9, micro_batch=8)


@pytest.fixture(scope="module")
def narrow(load_tiny: Any) -> LoraModel:
    return load_tiny(dtype="bfloat16")


def start_of(model: LoraModel) -> Tree:
    return random_tree(initial_adapter(model.layers, rank=4, seed=0), seed=6, scale=0.1, dtype=torch.float32)


def trained(model: LoraModel, steps: int) -> list[ClientResult]:
    """Three clients in one pass."""
    tasks = [client_task(k, PART, range(8 * k, 8 * k + 8), LOCAL, steps=steps) for k in range(3)]
    return train_block(model, FedAvg(), {"params": start_of(model)}, tasks, LOCAL)


def test_adapters_are_float32_and_move_by_less_than_bfloat16_can_hold(narrow):
    assert {p.dtype for p in narrow.base.parameters()} == {torch.bfloat16}
    start = start_of(narrow)
    for result in trained(narrow, steps=2):
        delta = result.upload["delta"]
        assert {tensor.dtype for tensor in delta.values()} == {torch.float32}
        name = next(n for n in delta if ".lora_B." in n)
        moved, first = delta[name], start[name]
        lost = (first + moved).to(torch.bfloat16) == first.to(torch.bfloat16)
        assert (moved != 0).float().mean() > 0.98  # a sum in bfloat16 may be 0
        assert lost.float().mean() > 0.9


def test_the_adapter_in_the_layers_is_never_rounded(narrow):
    tree = start_of(narrow)
    kept = tmap(torch.clone, tree)
    with narrow.using(tree):
        held = {t.dtype for layer in narrow.layers.values() for t in (layer.a_KrI, layer.b_KOr)}  # type: ignore[attr-defined]
    assert held == {torch.float32}
    assert all(torch.equal(tree[name], kept[name]) for name in tree)


def test_losses_and_gradients_are_those_of_float32_up_to_the_rounding_of_the_type(narrow, tiny_model):
    """A loss is a mean over tokens whose roundings are independent: it is nearer than one rounding. A gradient passes
    two layers of seven products, each rounded forward and backward: their roundings add up as those of 28."""
    wide, rounded = trained(tiny_model, steps=1), trained(narrow, steps=1)
    for ours, theirs in zip(rounded, wide, strict=True):
        assert ours.losses != theirs.losses
        assert ours.losses[0] == pytest.approx(theirs.losses[0], rel=EPS)
        delta = theirs.upload["delta"]
        gap = norm(tmap(torch.sub, ours.upload["delta"], delta)) / norm(delta)
        assert EPS / 100 < gap < 28**0.5 * EPS


def test_a_run_in_bfloat16_keeps_its_checkpoint_and_adapter_in_float32(tiny_split, tiny_folder, tmp_path):
    from safetensors.torch import load_file

    words = ("--model", str(tiny_folder), "--metrics", "heldout,mini_exact", "--set", "model.dtype=bfloat16")
    with quick():
        folder = run("fedavg", tiny_split.folder, tmp_path, *words)
    assert files.read_json(folder / "results.json")["metrics"]["heldout"]["after"]["n_unscored"] == 0
    server = load_server(folder / "checkpoint")
    assert server is not None
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    for trees in (server.params, saved):
        assert {tensor.dtype for tensor in trees.values()} == {torch.float32}
    assert all(torch.equal(saved[name], tensor) for name, tensor in server.params.items())
