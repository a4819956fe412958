"""LoRA layers for K clients side by side on one frozen base. Hu et al., 2021 (arXiv:2106.09685).

K clients in the block, N tokens of one client (B x T), I inputs, O outputs, r LoRA rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree

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
        if len(self.streams) == 1:  # nobody to be padded to, and a layer may see fewer tokens than the batch has
            mask = torch.empty(x_KNI.shape, device=x_KNI.device).bernoulli_(keep, generator=self.streams[0])
            return (mask / keep).to(x_KNI.dtype)
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

    def drop(self, x_KNI: Tensor) -> Tensor:
        """Inputs of the low-rank update after dropout."""
        if self.masks is None or not self.dropout:
            return x_KNI
        return x_KNI * self.masks.draw(1 - self.dropout, x_KNI)


class AdaptedLayer(Protocol):
    """A part of the base that a client's tensors can be put into; `stackable` where it takes several clients at once.

    `parts` are the names of these tensors behind the layer's own.
    """

    stackable: bool

    @property
    def parts(self) -> tuple[str, ...]: ...

    @property
    def base(self) -> nn.Module: ...

    @property
    def attached(self) -> bool: ...

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]: ...

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]: ...

    def attach(self, *tensors_K: Tensor) -> None: ...

    def detach(self) -> None: ...


A_AND_B = ("lora_A.weight", "lora_B.weight")


class LoraLinear(nn.Module):
    """A frozen linear layer plus the low-rank update of each client's rows."""

    def __init__(self, base: nn.Linear, scale: float, switch: Switch) -> None:
        super().__init__()
        self.base, self.scale, self.switch = base, scale, switch
        self.stackable, self.parts = True, A_AND_B
        # layers of bitsandbytes are subclasses, and may answer with a view that autograd lets nobody write into
        self._own_output = type(base) is nn.Linear
        self.a_KrI: Tensor | None = None
        self.b_KOr: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.a_KrI is None or self.b_KOr is None:
            out: Tensor = self.base(x)
            return out
        x_KNI = x.reshape(self.a_KrI.shape[0], -1, x.shape[-1])
        out_KNO: Tensor = self.base(x_KNI)
        low_KNr = self.switch.drop(x_KNI) @ self.a_KrI.mT.to(x.dtype)
        b_KrO = self.b_KOr.mT.to(x.dtype)
        if self._own_output:
            out_KNO.baddbmm_(low_KNr, b_KrO, alpha=self.scale)  # in place: no second large tensor
        else:
            out_KNO = torch.baddbmm(out_KNO, low_KNr, b_KrO, alpha=self.scale)
        return out_KNO.view(*x.shape[:-1], -1)

    @property
    def attached(self) -> bool:
        """Whether adapters are in use."""
        return self.a_KrI is not None

    def shapes(self, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of one client's A (r, I) and B (O, r)."""
        return (rank, self.base.in_features), (self.base.out_features, rank)

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        return drawn(self.shapes(rank), stream)

    def attach(self, *tensors_K: Tensor) -> None:
        """Use the adapters of K clients: A (K, r, I) and B (K, O, r)."""
        self.a_KrI, self.b_KOr = tensors_K

    def detach(self) -> None:
        """Back to the base layer alone."""
        self.a_KrI = self.b_KOr = None


def drawn(shapes: tuple[tuple[int, ...], tuple[int, ...]], stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """A as PEFT draws it (Kaiming uniform with a = sqrt 5), B zero."""
    a = torch.empty(shapes[0])
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=stream)
    return a, torch.zeros(shapes[1])


def tensor_names(name: str, layer: AdaptedLayer) -> tuple[str, ...]:
    """Names in a tree of a layer's tensors; where all weights of the model are trained (name ""), their own."""
    return tuple(f"{PREFIX}{name}.{part}" if name else part for part in layer.parts)


def initial_adapter(layers: Mapping[str, AdaptedLayer], rank: int, seed: int) -> Tree:
    """The first tensors of every layer, drawn from `seed`: training starts at the base."""
    stream = torch.Generator().manual_seed(seed)
    tree: Tree = {}
    for name, layer in layers.items():
        tree |= zip(tensor_names(name, layer), layer.initial(rank, stream), strict=True)
    return tree


def attach(layers: Mapping[str, AdaptedLayer], stacked: Tree) -> None:
    """Let the layers use one adapter of each client; `stacked` maps PEFT names to tensors with a leading K axis.

    Raises a :class:`UserError`, before anything changed, where K > 1 and a layer takes one client only.
    """
    num_clients = len(next(iter(stacked.values())))
    single = [name for name, layer in layers.items() if not layer.stackable]
    if num_clients > 1 and single:
        kind = type(layers[single[0]].base).__name__
        who = f"{single[0]} ({kind})" if single[0] else "model.trainable=full"
        raise UserError(f"got {num_clients} clients in one pass, but {who} takes one; --set local.block_size=1")
    for name, layer in layers.items():
        layer.attach(*(stacked[tensor] for tensor in tensor_names(name, layer)))


def detach(layers: Mapping[str, AdaptedLayer]) -> None:
    """Back to the base model alone."""
    for layer in layers.values():
        layer.detach()
