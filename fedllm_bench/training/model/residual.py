"""A base that carries a change: frozen weights W + s B A for as long as a block of clients trains.

A change of the base is a pair of factors of each adapted layer, which may have any rank R. Weights are added up in
float32 and have the base's own type. The weights of before are put back as they were, the very same tensors.
O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree
from fedllm_bench.training.model.lora import A_AND_B, PREFIX


@dataclass
class Carried:
    """The weights of the residual that was carried last: the blocks of a round have the same."""

    residual: Tree = field(default_factory=dict)
    weights: dict[str, nn.Parameter] = field(default_factory=dict)

    def of(self, residual: Tree, layers: Mapping[str, nn.Module], scale: float) -> dict[str, nn.Parameter]:
        if residual is not self.residual:
            self.residual, self.weights = {}, {}  # first, so that no third copy lies in memory
            self.weights = {name: _sum(name, layer, residual, scale) for name, layer in layers.items()}
            self.residual = residual
        return self.weights


@contextmanager
def carrying(
    layers: Mapping[str, nn.Module], scale: float, residual: Tree | None, carried: Carried
) -> Iterator[None]:
    """Inside the block the linear `layers` have W + `scale` B A of `residual` in the place of W; None changes nothing."""
    if residual is None:
        yield
        return
    own = {name: layer.weight for name, layer in layers.items()}
    weights = carried.of(residual, layers, scale)
    try:
        for name, layer in layers.items():
            layer.weight = weights[name]
        yield
    finally:
        for name, layer in layers.items():
            layer.weight = own[name]


def _sum(name: str, layer: nn.Module, residual: Tree, scale: float) -> nn.Parameter:
    weight_OI: Tensor = layer.weight
    a_RI, b_OR = (residual[f"{PREFIX}{name}.{part}"].to(weight_OI.device) for part in A_AND_B)
    wide = torch.promote_types(weight_OI.dtype, torch.float32)
    whole_OI = torch.addmm(weight_OI.to(wide), b_OR.to(wide), a_RI.to(wide), alpha=scale)
    return nn.Parameter(whole_OI.to(weight_OI.dtype), requires_grad=False)
