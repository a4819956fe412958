"""How many bytes autograd keeps for the backward pass: a measure of activations that no allocator blurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass
class Saved:
    """Bytes of distinct storages that are kept now, and the most at any time; weights do not count."""

    weights: frozenset[int]
    uses: Counter[int] = field(default_factory=Counter)
    now: int = 0
    peak: int = 0

    def keep(self, tensor: Tensor) -> Kept:
        storage = tensor.untyped_storage()
        kept = Kept(self, tensor.detach(), storage.data_ptr(), storage.nbytes())
        if kept.address not in self.weights:
            self.now += kept.size * (self.uses[kept.address] == 0)
            self.uses[kept.address] += 1
            self.peak = max(self.peak, self.now)
        return kept


@dataclass
class Kept:
    saved: Saved
    tensor: Tensor
    address: int
    size: int

    def __del__(self) -> None:
        if self.address not in self.saved.weights:
            self.saved.uses[self.address] -= 1
            self.saved.now -= self.size * (self.saved.uses[self.address] == 0)


@contextmanager
def saved_bytes(base: nn.Module) -> Iterator[Saved]:
    tensors = [*base.parameters(), *base.buffers()]
    saved = Saved(frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors))
    with saved_tensors_hooks(saved.keep, lambda kept: kept.tensor):
        yield saved
