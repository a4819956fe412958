"""A base that carries a change: frozen weights W + s B A in the place of W for as long as a block of clients trains.

The change has a pair of factors for each adapted layer, A of (R, I) and B of (O, R) under the names of the adapter's,
with any rank R. The sum is made in float32 and has the type of the base. Afterwards the weights of before stand there
again, the very same tensors. O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.products.factors import padded
from fedllm_bench.training.model.lora import A_AND_B, PREFIX, AdaptedLayer, LoraLinear, tensor_names


@dataclass(frozen=True)
class PlainLayer:
    """A frozen linear layer, and s = alpha / r of what is added to it."""

    layer: nn.Linear
    scale: float


@dataclass
class Carried:
    """The weights of the change that was carried last: the blocks of a round have the same, which is made once.

    `own`: while one is carried, each layer with the weight of before.
    """

    change: Tree | None = None
    weights: Mapping[str, nn.Parameter] = field(default_factory=dict)
    own: tuple[tuple[nn.Linear, Tensor], ...] = ()

    def of(self, change: Tree, layers: Mapping[str, PlainLayer]) -> Mapping[str, nn.Parameter]:
        if change is not self.change:
            self.change, self.weights = None, {}  # first, so that no third copy lies in memory
            self.weights = {name: _changed(plain, _factors(change, name)) for name, plain in layers.items()}
            self.change = change
        return self.weights


@contextmanager
def carrying(layers: Mapping[str, PlainLayer], change: Tree, carried: Carried) -> Iterator[None]:
    """Inside the block the layers have W + s B A of `change` in the place of W."""
    weights = carried.of(change, layers)
    carried.own = tuple((plain.layer, plain.layer.weight) for plain in layers.values())
    try:
        for name, plain in layers.items():
            plain.layer.weight = weights[name]
        yield
    finally:
        for layer, weight in carried.own:
            layer.weight = weight
        carried.own = ()


@contextmanager
def put_down(carried: Carried) -> Iterator[None]:
    """Inside the block the base is as it was before training, also where it carries a change."""
    changed = [layer.weight for layer, _ in carried.own]
    try:
        for layer, weight in carried.own:
            layer.weight = weight
        yield
    finally:
        for (layer, _), weight in zip(carried.own, changed, strict=True):
            layer.weight = weight


def _factors(change: Tree, name: str) -> tuple[Tensor, Tensor]:
    a_RI, b_OR = (change[f"{PREFIX}{name}.{part}"] for part in A_AND_B)
    return a_RI, b_OR


def _changed(plain: PlainLayer, factors: tuple[Tensor, Tensor]) -> nn.Parameter:
    weight_OI = plain.layer.weight.detach()
    wide = torch.promote_types(weight_OI.dtype, torch.float32)
    a_RI, b_OR = (factor.to(weight_OI.device, wide) for factor in factors)
    whole_OI = torch.addmm(weight_OI.to(wide), b_OR, a_RI, alpha=plain.scale)
    return nn.Parameter(whole_OI.to(weight_OI.dtype), requires_grad=False)


def plain_layers(layers: Mapping[str, AdaptedLayer]) -> dict[str, PlainLayer]:
    """The frozen layers under adapters, by name. Raises a :class:`UserError` where one is no plain linear layer."""
    found: dict[str, PlainLayer] = {}
    for name, layer in layers.items():
        if not (isinstance(layer, LoraLinear) and type(layer.base) is nn.Linear):
            raise UserError(
                f"communication.lora_aggregation: the base is to change, and {name} is a {type(layer.base).__name__}, "
                "no plain linear layer; name others with --set lora.targets=a,b, or give lora_aggregation=flex or mean"
            )
        found[name] = PlainLayer(layer.base, layer.scale)
    return found


def principal_adapter(layers: Mapping[str, AdaptedLayer], rank: int) -> Tree:
    """Of each layer the A and B with s B A = the `rank` largest singular values of its weight, in float32 on the CPU.

    Both have the roots of the singular values. Zeros fill up what is beyond the rank of the weight.
    """
    found: Tree = {}
    for name, plain in plain_layers(layers).items():
        u, values, v = torch.linalg.svd(plain.layer.weight.detach().float(), full_matrices=False)
        root_r = (values[:rank] / plain.scale).sqrt()
        pair = padded(((root_r[:, None] * v[:rank]).cpu(), (u[:, :rank] * root_r).cpu()), rank)
        found |= zip(tensor_names(name, layers[name]), pair, strict=True)
    return found


def under_peft(layers: Mapping[str, AdaptedLayer], peft_model: Any) -> dict[str, PlainLayer]:
    """The same layers in a base that plain PEFT has wrapped."""
    base = peft_model.get_base_model()
    plain = plain_layers(layers)
    return {name: replace(one, layer=base.get_submodule(name).base_layer) for name, one in plain.items()}
