"""Arithmetic on trees of tensors, and the packing of a tree into one vector.

A tree is a flat mapping from PEFT tensor names to float32 tensors; all trees of a run share names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def tmap(function: Callable[..., Tensor], *trees: Mapping[str, Tensor]) -> Tree:
    """Apply `function` to the tensors of the same name; all trees must have the names of the first."""
    first = trees[0]
    if any(tree.keys() != first.keys() for tree in trees[1:]):
        raise ValueError("the trees have different tensor names")
    return {name: function(*(tree[name] for tree in trees)) for name in first}


def zeros_like(tree: Mapping[str, Tensor]) -> Tree:
    return tmap(torch.zeros_like, tree)


def norm(tree: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all tensors."""
    return float(torch.stack([t.double().square().sum() for t in tree.values()]).sum().sqrt())


def num_bytes(trees: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Bytes of a message or an upload, counted from the tensors that are really sent."""
    return sum(t.numel() * t.element_size() for tree in trees.values() for t in tree.values())


def moved_to(device: torch.device, trees: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tree]:
    """A message, an upload or a client's state on another device."""
    return {key: {name: tensor.to(device) for name, tensor in tree.items()} for key, tree in trees.items()}


@dataclass(frozen=True)
class Layout:
    """Names, shapes and order of a tree's tensors, to move between a tree and one vector."""

    shapes: tuple[tuple[str, torch.Size], ...]

    @classmethod
    def of(cls, tree: Mapping[str, Tensor]) -> Layout:
        return cls(tuple((name, tensor.shape) for name, tensor in tree.items()))

    def pack(self, tree: Mapping[str, Tensor]) -> Tensor:
        """One new vector with the tensors of `tree` in the order of the layout."""
        return torch.cat([tree[name].reshape(-1) for name, _ in self.shapes])

    def unpack(self, packed: Tensor) -> Tree:
        """A tree of views into a vector of shape (P,), or into K of them side by side, shape (K, P)."""
        # split, not slices: its backward writes the gradient once (a step took 13 instead of 18 ms).
        parts = packed.split([shape.numel() for _, shape in self.shapes], dim=-1)
        lead = packed.shape[:-1]
        return {name: part.view((*lead, *shape)) for (name, shape), part in zip(self.shapes, parts, strict=True)}
