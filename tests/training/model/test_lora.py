"""LoRA layers against plain PEFT, K clients at once against one by one, and dropout that is a function of its seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import ALL_LINEAR, adapter_parameters, plain_loss, plain_peft, random_part, random_tree
from torch import Tensor

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.training.batches import collate
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.model.lora import DRAWS, LoraLinear, Masks, Switch, attach, detach, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

IDS = torch.randint(4, 3000, (6, 11), generator=torch.Generator().manual_seed(4))


def logits_of(model: LoraModel, trees: list[Tree], ids: Tensor) -> Tensor:
    """Logits where the rows of `ids` belong to the clients of `trees`, in their order."""
    attach(model.layers, {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]})
    try:
        with torch.no_grad():
            return model.logits(model.hidden(ids))
    finally:
        detach(model.layers)


def start_of(model: LoraModel) -> Tree:
    return initial_adapter(model.layers, rank=4, seed=0)


def test_forward_and_gradients_are_those_of_plain_peft(double_model, tiny_folder):
    tree = random_tree(start_of(double_model), seed=1, scale=0.2)
    rows = list(random_part(seed=2, num_rows=5))
    theirs = plain_peft(tiny_folder, tree, torch.float64)
    loss = plain_loss(theirs, rows)
    loss.backward()
    leaves = {name: tensor[None].clone().requires_grad_() for name, tensor in tree.items()}
    attach(double_model.layers, leaves)
    counted = torch.tensor([sum(row.num_counted for row in rows)])
    ours = client_losses(double_model, collate(rows, torch.device("cpu")), torch.tensor([0] * len(rows)), counted)
    ours.sum().backward()
    detach(double_model.layers)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-12)
    gradients = {name: p.grad for name, p in adapter_parameters(theirs).items()}
    assert gradients.keys() == tree.keys()
    assert len(tree) == 2 * 2 * len(ALL_LINEAR)  # layers, A and B, targets
    for name, leaf in leaves.items():
        assert gradients[name].norm() > 0
        assert torch.allclose(leaf.grad[0], gradients[name], rtol=1e-9, atol=1e-13), name


def test_clients_side_by_side_are_the_clients_one_by_one(double_model):
    trees = [random_tree(start_of(double_model), seed=k, scale=0.2) for k in range(3)]
    together = logits_of(double_model, trees, IDS)
    alone = torch.cat([logits_of(double_model, [tree], IDS[2 * k : 2 * k + 2]) for k, tree in enumerate(trees)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    swapped = logits_of(double_model, trees[::-1], IDS)
    assert not torch.allclose(together[:2], swapped[:2], atol=0.1)  # the adapters do matter


def test_the_initial_adapter_leaves_the_base_as_it_was(tiny_model):
    with torch.no_grad():
        base = tiny_model.logits(tiny_model.hidden(IDS))
    assert torch.equal(logits_of(tiny_model, [start_of(tiny_model)], IDS), base)


def test_the_initial_adapter_is_drawn_as_peft_draws_it_and_only_from_its_seed(tiny_model):
    tree = start_of(tiny_model)
    again, other = start_of(tiny_model), initial_adapter(tiny_model.layers, rank=4, seed=1)
    for name, tensor in tree.items():
        assert torch.equal(tensor, again[name])
        if ".lora_A." in name:  # Kaiming uniform with a = sqrt 5 has the bound 1 / sqrt(fan in)
            bound = 1 / math.sqrt(tensor.shape[1])
            assert 0.8 * bound < tensor.abs().max() <= bound
            assert not torch.equal(tensor, other[name])
        else:
            assert not tensor.any()


def test_using_an_adapter_ends_with_the_base_alone(tiny_model):
    tree = random_tree(start_of(tiny_model), seed=3, scale=0.3, dtype=torch.float32)
    with tiny_model.using(None):
        base = tiny_model.base(input_ids=IDS).logits
    with tiny_model.using(tree):
        adapted = tiny_model.base(input_ids=IDS).logits
    with pytest.raises(IndexError), tiny_model.using(tree):  # an error is no reason to stay adapted
        tiny_model.base(input_ids=IDS + 10_000)
    assert not torch.allclose(adapted, base, atol=0.1)
    assert torch.equal(tiny_model.base(input_ids=IDS).logits, base)


def test_padding_behind_a_row_does_not_change_it(double_model):
    padded = torch.nn.functional.pad(IDS, (0, 5))
    with torch.no_grad():
        alone, longer = double_model.hidden(IDS), double_model.hidden(padded)[:, : IDS.shape[1]]
    assert torch.allclose(alone, longer, rtol=0, atol=1e-12)


def test_no_parameter_of_the_base_is_trainable(tiny_model):
    assert len(tiny_model.layers) == 2 * len(ALL_LINEAR)
    assert not [name for name, p in tiny_model.base.named_parameters() if p.requires_grad]


def test_only_the_named_targets_get_layers(load_tiny):
    layers = load_tiny(targets=("q_proj", "v_proj")).layers
    assert sorted(layers) == [f"model.layers.{i}.self_attn.{t}_proj" for i in (0, 1) for t in "qv"]


def test_an_unknown_target_is_refused_with_what_there_is(load_tiny):
    with pytest.raises(UserError, match=r"no linear layer is called c_attn; this model has .*gate_proj.*q_proj"):
        load_tiny(targets=("q_proj", "c_attn"))


def streams(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def masks(seeds: list[int], padded: int, lengths: list[int]) -> Masks:
    """Of rows padded to a common length."""
    return Masks(streams(*seeds), range(0, padded * len(seeds), padded), lengths, padded * len(seeds))


def test_masks_are_a_function_of_the_seed_and_keep_the_expectation():
    x_NI = torch.ones(2 * 120, 50)
    first = masks([1, 2], 120, [120, 120]).kept(DRAWS // 5, x_NI)
    assert torch.equal(first, masks([1, 2], 120, [120, 120]).kept(DRAWS // 5, x_NI))
    assert not torch.equal(first[:120], first[120:])
    assert first.unique().tolist() == [0.0, 1.0]
    assert first.mean().item() == pytest.approx(0.8, abs=0.016)  # 12,000 draws: standard error 0.004
    switch = Switch(dropout=0.05, masks=masks([1], 240, [240]))
    assert switch.keep == pytest.approx(0.95, abs=1e-5)
    assert switch.drop(torch.ones(1, 240, 500)).mean().item() == pytest.approx(1, abs=0.003)


def test_each_of_the_four_draws_of_a_number_is_fair():
    kept = masks([3], 4000, [4000]).kept(DRAWS // 4, torch.ones(4000, 4))
    assert kept.mean(dim=0).tolist() == pytest.approx([0.75] * 4, abs=0.03)  # standard error 0.007
    assert np.abs(np.corrcoef(kept.numpy().T) - np.eye(4)).max() < 0.06


def test_low_precision_does_not_change_how_many_values_are_dropped():
    wide, narrow = (
        masks([3], 500, [500]).kept(700, torch.ones(500, 64, dtype=d)) for d in (torch.float64, torch.bfloat16)
    )
    assert torch.equal(wide, narrow.double())


def test_a_rows_masks_do_not_depend_on_what_shares_its_pass():
    alone, shared = masks([1], 5, [5]), masks([9, 1, 2], 8, [8, 5, 2])
    for _ in range(3):  # one draw for each layer
        own = alone.kept(20_000, torch.ones(5, 6))
        assert 0 < own.mean() < 1
        assert torch.equal(shared.kept(20_000, torch.ones(3 * 8, 6)).view(3, 8, 6)[1, :5], own)


def segments_apart(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, segments: list[int]) -> torch.Tensor:
    """The updates of a pass, client by client."""
    return torch.cat([part @ a[k].T @ b[k].T for k, part in enumerate(x.split(segments))])


@pytest.mark.parametrize("segments", [[7], [3, 3], [4, 1, 6], [2, 2, 2, 2]])
@pytest.mark.parametrize("kind", [torch.nn.Linear, type("Subclass", (torch.nn.Linear,), {})])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_products_of_unequal_segments_and_their_gradients_are_those_one_by_one(segments, kind, dropout):
    stream = torch.Generator().manual_seed(5)
    num, clients = sum(segments), len(segments)
    base = kind(8, 6).double().requires_grad_(False)
    switch = Switch(dropout=dropout, segments=tuple(segments), masks=masks([4], num, [num]))
    x, a, b, up = (torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in (
        (1, num, 8), (clients, 3, 8), (clients, 6, 3), (1, num, 6)))  # fmt: skip
    leaves = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
    layer = LoraLinear(base, 0.7, switch)
    layer.attach(*leaves[1:])
    ours = layer(leaves[0])
    kept = masks([4], num, [num]).kept(switch.dropped, x[0]) / switch.keep if dropout else torch.ones(num, 8)
    others = [tensor.clone().requires_grad_() for tensor in (x, a, b)]
    theirs = base(others[0]) + 0.7 * segments_apart(others[0][0] * kept, others[1], others[2], segments)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    (ours * up).sum().backward()
    (theirs * up).sum().backward()
    for leaf, other in zip(leaves, others, strict=True):
        assert leaf.grad.abs().max() > 0.1
        assert torch.allclose(leaf.grad, other.grad, rtol=0, atol=1e-11)


def test_dropout_falls_on_the_update_and_not_on_the_base():
    linear = torch.nn.Linear(4, 3).requires_grad_(False)
    layer = LoraLinear(linear, 2.0, Switch(dropout=0.5))
    layer.a_KrI, layer.b_KOr = torch.ones(1, 1, 4), torch.ones(1, 3, 1)
    x = torch.randn(2, 6, 4)
    layer.switch.masks = masks([1, 2], 6, [6, 6])
    mask = masks([1, 2], 6, [6, 6]).kept(DRAWS // 2, x.view(12, 4)).view(2, 6, 4) / 0.5
    expected = linear(x) + 2.0 * (x * mask).sum(-1, keepdim=True)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    layer.switch.masks = None  # in evaluation nothing is dropped
    assert torch.allclose(layer(x), linear(x) + 2.0 * x.sum(-1, keepdim=True), atol=1e-6)
