"""LoRA layers for K clients side by side on one frozen base. Hu et al., 2021 (arXiv:2106.09685).

K clients in the pass, N tokens of all of them, I inputs, O outputs, r LoRA rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.training.model.products import AdaptedProduct, LowRankProduct, Product

DRAWS = 2**16  # a value is dropped by a number of 16 bits, so with a probability that is a multiple of 1 / DRAWS
ALL_BITS = (-(2**63), None)  # what random_ takes for any 64 bits
PREFIX = "base_model.model."  # PEFT's names for the tensors of a wrapped model


@dataclass(frozen=True)
class Masks:
    """Dropout of one pass: a seeded stream for each row, and where its tokens lie.

    Row i has `lengths[i]` tokens from token `starts[i]` on; all `num_tokens` tokens of a pass lie one behind another,
    padding included. So a row's masks depend on its own stream alone, whoever shares its pass.
    """

    streams: Sequence[torch.Generator]
    starts: Sequence[int]
    lengths: Sequence[int]
    num_tokens: int

    def kept(self, dropped: int, x_NI: Tensor) -> Tensor:
        """1 where a value stays and 0 where it is dropped, which happens to `dropped` of DRAWS; as `x_NI`.

        Four draws are made of each number of 64 bits: three times as fast as torch's bernoulli_. They are made where
        the streams lie, so that a base over several GPUs drops what it drops on one.
        """
        num_tokens, width = x_NI.shape
        drawn = torch.zeros(num_tokens, -(-width // 4) * 4, dtype=torch.int16, device=self.streams[0].device)
        if num_tokens == self.num_tokens:
            for stream, start, length in zip(self.streams, self.starts, self.lengths, strict=True):
                drawn[start : start + length].view(torch.int64).random_(*ALL_BITS, generator=stream)
        else:  # a layer that sees some tokens only, of whatever rows
            drawn.view(torch.int64).random_(*ALL_BITS, generator=self.streams[0])
        wide = drawn[:, :width].to(x_NI.device, torch.float32)  # which holds each draw
        return wide.ge_(dropped - DRAWS // 2).to(x_NI.dtype)


@dataclass
class Switch:
    """What every LoRA layer of a model reads in a pass; without `masks` nothing is dropped.

    `segments` are the tokens of each client in the pass, in the order of their adapters. () is as many of each.
    With `keeps` no layer is computed again in the backward pass, also under gradient checkpointing.
    """

    dropout: float = 0.0
    masks: Masks | None = None
    segments: tuple[int, ...] = ()
    keeps: bool = False

    def kept(self, x_NI: Tensor) -> Tensor | None:
        """1 where an input of the low-rank update stays, else 0; None where nothing is dropped."""
        if self.masks is None or not self.dropout:
            return None
        return self.masks.kept(self.dropped, x_NI)

    @property
    def dropped(self) -> int:
        """How many of DRAWS equal draws drop a value."""
        return round(self.dropout * DRAWS)

    @property
    def keep(self) -> float:
        """The probability that a value stays."""
        return 1 - self.dropped / DRAWS

    def drop(self, x: Tensor) -> Tensor:
        """Inputs (..., I) of the low-rank update after dropout."""
        kept_NI = self.kept(x.reshape(-1, x.shape[-1]))
        return x if kept_NI is None else x * (kept_NI.view(x.shape) / self.keep)


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
    """A frozen linear layer plus the low-rank update of each client's tokens."""

    def __init__(self, base: nn.Linear, scale: float, switch: Switch) -> None:
        super().__init__()
        self.base, self.scale, self.switch = base, scale, switch
        self.stackable, self.parts = True, A_AND_B
        # layers of bitsandbytes are subclasses: what they do with their weight is theirs
        self._is_plain = type(base) is nn.Linear
        self.a_KrI: Tensor | None = None
        self.b_KOr: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.a_KrI is None or self.b_KOr is None:
            out: Tensor = self.base(x)
            return out
        x_NI = x.reshape(-1, x.shape[-1])
        kept_NI = self.switch.kept(x_NI)
        product = Product(self.base, self.scale, segments_of(self.switch, len(self.a_KrI), len(x_NI)))
        if kept_NI is not None:
            product = replace(product, scale=self.scale / self.switch.keep)
        a_KrI, b_KOr = self.a_KrI.to(x.dtype), self.b_KOr.to(x.dtype)
        if self._is_plain:
            out_NO: Tensor = AdaptedProduct.apply(product, x_NI, a_KrI, b_KOr, kept_NI)  # type: ignore[no-untyped-call]
        else:
            update_NO = LowRankProduct.apply(product, x_NI, a_KrI, b_KOr, kept_NI)  # type: ignore[no-untyped-call]
            out_NO = self.base(x_NI) + update_NO
        return out_NO.view(*x.shape[:-1], -1)

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
        """Use the adapters of K clients: A (K, r, I) and B (K, O, r), moved to where the layer lies."""
        self.a_KrI, self.b_KOr = (tensor_K.to(self.base.weight.device) for tensor_K in tensors_K)

    def detach(self) -> None:
        """Back to the base layer alone."""
        self.a_KrI = self.b_KOr = None


def segments_of(switch: Switch, num_clients: int, num_tokens: int) -> tuple[int, ...]:
    """The tokens of each client; all of one client's may be fewer where a layer sees some tokens only."""
    if num_clients == 1:
        return (num_tokens,)
    return switch.segments or (num_tokens // num_clients,) * num_clients


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
