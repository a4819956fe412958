"""IA3. Liu et al., 2022 (arXiv:2205.05638), section 3.3:

    keys and values of attention times l, and inputs of the last layer of the feed-forward network times l

with one vector l for each layer, ones in the beginning: training starts at the base.

As PEFT has it (IA3Config): a layer of `feedforward` scales its inputs, (1, I), any other one its outputs, (O, 1). A
number of a token is multiplied by one number of its client, so clients side by side are exactly those one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedllm_bench.training.model.kinds.beside import BesideLayer, widths_of
from fedllm_bench.training.model.lora import Switch


class ScaledLayer(BesideLayer):
    """`base` with its inputs or its outputs scaled."""

    parts = ("ia3_l",)

    def __init__(self, base: nn.Module, switch: Switch, *, of_inputs: bool) -> None:
        super().__init__(base, switch)
        self.of_inputs = of_inputs

    def forward(self, x: Tensor) -> Tensor:
        scales_inputs, scales_outputs = (self.attached and of == self.of_inputs for of in (True, False))
        out: Tensor = self.base(self._scaled(x) if scales_inputs else x)
        return self._scaled(out) if scales_outputs else out

    def _scaled(self, x: Tensor) -> Tensor:
        """`x` of any type times scales in float32, as PEFT multiplies."""
        scales_KW = self.tensors_K[0].flatten(1)
        if len(scales_KW) == 1:
            return (x * scales_KW[0]).to(x.dtype)
        x_NW = x.reshape(-1, x.shape[-1])
        counts = torch.tensor(self.segments(len(x_NW)), device=x.device)
        scales_NW = scales_KW.repeat_interleave(counts, 0, output_size=len(x_NW))
        return (x_NW * scales_NW).to(x.dtype).view(x.shape)

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        inputs, outputs = widths_of(self.base)
        return ((1, inputs),) if self.of_inputs else ((outputs, 1),)

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(torch.ones(shape) for shape in self.shapes(rank))
