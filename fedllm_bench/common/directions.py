"""Random directions that are drawn from a seed wherever they are needed, so that nobody keeps or sends one.

They are drawn on the CPU: a client on a GPU and the server then have the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm_bench.common.trees import Tree

DIRECTION = 6  # the purpose of a random stream, beside those of `batches`, `trl` and `privacy`


@dataclass(frozen=True)
class ProbeStep:
    """A zeroth-order step: the loss is taken at y + mu z and at y - mu z, where z is the direction of `seed`."""

    seed: int
    mu: float


def mixed(*words: int) -> int:
    """A seed of 63 bits from several numbers; the multiplier of splitmix64 spreads neighbours apart."""
    found = 0
    for word in words:
        found = ((found ^ word) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
    return found


def direction(like: Mapping[str, Tensor], seed: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of z ~ Normal(0, I) one after another, in the names, shapes, types and order of `like`."""
    stream = torch.Generator().manual_seed(mixed(DIRECTION, seed))
    for name, tensor in like.items():
        yield name, torch.randn(tensor.shape, generator=stream, dtype=tensor.dtype).to(tensor.device)


def move_(tree: Mapping[str, Tensor], seed: int, size: float) -> None:
    """Add `size` z to a tree in place; one tensor of z is in memory at a time."""
    for name, z in direction(tree, seed):
        tree[name].add_(z, alpha=size)


def scaled(like: Mapping[str, Tensor], seed: int, size: float) -> Tree:
    """`size` z as a tree of its own."""
    return {name: z.mul_(size) for name, z in direction(like, seed)}
