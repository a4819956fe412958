"""Bottleneck adapters. Houlsby et al., 2019 (arXiv:1902.00751), section 2.1, behind the layers that are named:

    h = W x            (the frozen layer)
    out = h + U ReLU(D h + d) + u        D (M, O), d (M,), U (O, M), u (O,); M = O / reduction, at least 1

U and u begin with zeros, so the untrained adapter is the base bit for bit. Behind the last layer of the feed-forward
network alone it is the adapter of Pfeiffer et al., 2021 (arXiv:2005.00247); behind that of attention too, Houlsby's.
PEFT has no such adapter; this module is of this suite, and `loading.py` reads what it leaves.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedllm_bench.training.model.kinds.beside import BesideLayer, by_client, widths_of
from fedllm_bench.training.model.lora import Switch


class BottleneckLayer(BesideLayer):
    """`base` with a bottleneck behind it."""

    parts = ("adapter_down.weight", "adapter_down.bias", "adapter_up.weight", "adapter_up.bias")

    def __init__(self, base: nn.Module, switch: Switch, *, reduction: int) -> None:
        super().__init__(base, switch)
        self.width = max(1, widths_of(base)[1] // reduction)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        if not self.attached:
            return out
        h_NO = out.reshape(-1, out.shape[-1])
        parts = by_client(h_NO, self.segments(len(h_NO)))
        each = [_behind(h, *tensors) for h, *tensors in zip(parts, *self.tensors_K, strict=True)]
        return (each[0] if len(each) == 1 else torch.cat(each)).view(out.shape)

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        _, outputs = widths_of(self.base)
        return (self.width, outputs), (self.width,), (outputs, self.width), (outputs,)

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        """D and d as torch draws an nn.Linear; U and u zeros."""
        down, down_bias, up, up_bias = self.shapes(rank)
        bound = 1 / math.sqrt(down[1])
        drawn = [torch.empty(shape).uniform_(-bound, bound, generator=stream) for shape in (down, down_bias)]
        return *drawn, torch.zeros(up), torch.zeros(up_bias)


def _behind(h_NO: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> Tensor:
    """One client's tokens; the products are in the type of the base, as those of LoRA are."""
    down, down_bias, up, up_bias = (tensor.to(h_NO.dtype) for tensor in (down, down_bias, up, up_bias))
    return h_NO + F.linear(F.linear(h_NO, down, down_bias).relu(), up, up_bias)
