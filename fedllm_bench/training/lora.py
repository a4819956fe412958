"""LoRA layers for K clients side by side on one frozen base. Hu et al., 2021 (arXiv:2106.09685).

K clients in the block, N tokens of one client (B x T), I inputs, O outputs, r LoRA rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedllm_bench.config import Lora
from fedllm_bench.errors import UserError
from fedllm_bench.trees import Tree

PREFIX = "base_model.model."  # PEFT's names for the tensors of a wrapped model


@dataclass(frozen=True)
class Masks:
    """Dropout of one forward pass: a seeded stream for each client, and how its rows lie in the batch.

    `num_rows` rows of each client are padded to a common length; `lengths` are the clients' own, so that a
    client's masks do not depend on who shares its pass.
    """

    streams: Sequence[torch.Generator]
    num_rows: int
    lengths: Sequence[int]

    def draw(self, keep: float, x_KNI: Tensor) -> Tensor:
        """1 / `keep` where a value stays and 0 where it is dropped, of the shape of `x_KNI`."""
        padded = x_KNI.shape[1] // self.num_rows
        drawn = []
        for stream, length in zip(self.streams, self.lengths, strict=True):
            mask = torch.empty(self.num_rows, length, x_KNI.shape[2], device=x_KNI.device)
            mask.bernoulli_(keep, generator=stream)
            drawn.append(F.pad(mask, (0, 0, 0, padded - length)))
        return (torch.stack(drawn).view(x_KNI.shape) / keep).to(x_KNI.dtype)


@dataclass
class Switch:
    """What every LoRA layer of a model reads in a forward pass; without `masks` nothing is dropped."""

    dropout: float = 0.0
    masks: Masks | None = None


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
        x_KNI = x.reshape(num_clients, -1, x.shape[-1])
        if self.switch.masks is not None and self.switch.dropout:
            x_KNI = x_KNI * self.switch.masks.draw(1 - self.switch.dropout, x_KNI)
        low_KNr = x_KNI @ self.a_KrI.mT.to(x.dtype)
        out_KNO = out.view(num_clients, -1, out.shape[-1])
        return out_KNO.baddbmm(low_KNr, self.b_KOr.mT.to(x.dtype), alpha=self.scale).view(out.shape)


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
