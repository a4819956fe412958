"""LoRA layers for K clients side by side on one frozen base. Hu et al., 2021 (arXiv:2106.09685).

K clients in the block, N tokens of one client (B x T), I inputs, O outputs, r LoRA rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedllm_bench.config import Lora
from fedllm_bench.errors import UserError
from fedllm_bench.trees import Tree

PREFIX = "base_model.model."  # PEFT's names for the tensors of a wrapped model


@dataclass
class Switch:
    """What every LoRA layer of a model reads in a forward pass: one seeded stream of masks for each client."""

    dropout: float = 0.0
    streams: Sequence[torch.Generator] = field(default_factory=tuple)  # empty: no dropout


class LoraLinear(nn.Module):
    """A frozen linear layer plus the low-rank update of each client's rows."""

    def __init__(self, base: nn.Linear, scale: float, switch: Switch) -> None:
        super().__init__()
        self.base, self.scale, self.switch = base, scale, switch
        self.a_KrI: Tensor | None = None
        self.b_KOr: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        if self.a_KrI is None or self.b_KOr is None:
            return out
        num_clients = self.a_KrI.shape[0]
        x_KNI = self._drop(x.reshape(num_clients, -1, x.shape[-1]))
        low_KNr = x_KNI @ self.a_KrI.mT.to(x.dtype)
        out_KNO = low_KNr @ self.b_KOr.mT.to(x.dtype)
        return out + self.scale * out_KNO.view(out.shape)

    def _drop(self, x_KNI: Tensor) -> Tensor:
        if not self.switch.streams or not self.switch.dropout:
            return x_KNI
        keep = 1 - self.switch.dropout
        masks = [
            torch.empty(x_KNI.shape[1:], device=x_KNI.device).bernoulli_(keep, generator=stream)
            for stream in self.switch.streams
        ]
        return x_KNI * (torch.stack(masks) / keep).to(x_KNI.dtype)


def insert(base: nn.Module, lora: Lora) -> tuple[dict[str, LoraLinear], Switch]:
    """Freeze `base`, put LoRA layers in place of the linear layers that `lora.targets` names.

    Returns the layers by module name. Raises a :class:`UserError` for a target that names no linear layer.
    """
    base.requires_grad_(False)
    switch = Switch(dropout=lora.dropout)
    found = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in lora.targets
    }
    missing = set(lora.targets) - {name.rpartition(".")[2] for name in found}
    if missing:
        linear = {n.rpartition(".")[2] for n, m in base.named_modules() if isinstance(m, nn.Linear)}
        raise UserError(
            f"lora.targets: no linear layer is called {', '.join(sorted(missing))}; "
            f"this model has {', '.join(sorted(linear)) or 'none'}"
        )
    layers = {}
    for name, module in found.items():
        parent, _, child = name.rpartition(".")
        layers[name] = LoraLinear(module, lora.alpha / lora.rank, switch)
        setattr(base.get_submodule(parent), child, layers[name])
    return layers, switch


def initial_adapter(layers: dict[str, LoraLinear], rank: int, seed: int) -> Tree:
    """A drawn as PEFT draws it (Kaiming uniform with a = sqrt 5), B zero, so that training starts at the base."""
    stream = torch.Generator().manual_seed(seed)
    tree: Tree = {}
    for name, layer in layers.items():
        num_out, num_in = layer.base.out_features, layer.base.in_features
        a_rI = torch.empty(rank, num_in)
        nn.init.kaiming_uniform_(a_rI, a=math.sqrt(5), generator=stream)
        tree[f"{PREFIX}{name}.lora_A.weight"] = a_rI
        tree[f"{PREFIX}{name}.lora_B.weight"] = torch.zeros(num_out, rank)
    return tree


def attach(layers: dict[str, LoraLinear], stacked: Tree) -> None:
    """Let the layers use one adapter of each client; `stacked` maps PEFT names to tensors with a leading K axis."""
    for name, layer in layers.items():
        layer.a_KrI = stacked[f"{PREFIX}{name}.lora_A.weight"]
        layer.b_KOr = stacked[f"{PREFIX}{name}.lora_B.weight"]


def detach(layers: dict[str, LoraLinear]) -> None:
    """Back to the base model alone."""
    for layer in layers.values():
        layer.a_KrI = layer.b_KOr = None
