"""What IA3 and bottleneck adapters share: a frozen layer, and the tensors of K clients for the tokens that it sees.

K clients in the pass, N tokens of all of them, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedllm_bench.training.model.lora import Switch, segments_of


class BesideLayer(nn.Module):
    """A frozen linear layer, of nn.Linear or Conv1D, whose inputs or outputs the tensors of clients change."""

    parts: tuple[str, ...] = ()

    def __init__(self, base: nn.Module, switch: Switch) -> None:
        super().__init__()
        self.base, self.switch, self.stackable = base, switch, True
        self.tensors_K: tuple[Tensor, ...] = ()

    @property
    def attached(self) -> bool:
        return bool(self.tensors_K)

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Those of one client's tensors."""
        raise NotImplementedError

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def attach(self, *tensors_K: Tensor) -> None:
        """Use the tensors of K clients, moved to where the layer lies."""
        place = next(self.base.parameters()).device
        self.tensors_K = tuple(tensor_K.to(place) for tensor_K in tensors_K)

    def detach(self) -> None:
        """Back to the base layer alone."""
        self.tensors_K = ()

    def segments(self, num_tokens: int) -> tuple[int, ...]:
        """The tokens of each client among N."""
        return segments_of(self.switch, len(self.tensors_K[0]), num_tokens)


def widths_of(layer: nn.Module) -> tuple[int, int]:
    """I and O."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Conv1D):
        return int(layer.nx), int(layer.nf)
    raise TypeError(f"{type(layer).__name__} is no linear layer")


def put_in_place(base: nn.Module, name: str, layer: nn.Module) -> None:
    """`layer` in the place of the module of `base` with this full name."""
    parent, _, child = name.rpartition(".")
    setattr(base.get_submodule(parent), child, layer)


def by_client(tensor_N: Tensor, segments: Sequence[int]) -> tuple[Tensor, ...]:
    """The tokens of each client, (N_k, ...)."""
    return torch.split(tensor_N, list(segments))
