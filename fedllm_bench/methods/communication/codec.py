"""Numbers as they travel: rounded to float16, int8 or int4, and the largest ones alone.

Symmetric rounding of the numbers x of one group, with L = 127 (int8) or 7 (int4):

    scale = max |x| / L;   code = round(x / scale), the nearest in -L..L;   x' = scale code,   |x - x'| <= scale / 2

Rounding is to the nearest (half to even), so that it needs no seed. Its errors do not cancel over rounds by themselves,
as those of stochastic rounding do: error feedback (methods/communication/compression.py) takes care of that.

A group is a tensor (scales = tensor), or a vector along the longer side of a matrix (scales = row): a row of LoRA's A
and a column of its B, so that a matrix has as many scales as the adapter has ranks.

Of a tree with top_k < 1 the k = ceil(top_k P) numbers of largest magnitude travel, of all its tensors together, with
their places (Stich et al., 2018, arXiv:1809.07599, section 2.1).

What is sent of a tree KEY: the numbers under KEY, and beside them KEY:scale, KEY:index, and KEY:like. The last are
empty tensors, which have shapes and type and no bytes: shapes are not counted, with codes or without.

P numbers in a tree, k of them sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedllm_bench.common.trees import Layout, Tree
from fedllm_bench.config.config_uploads import Number

LEVELS = {"int8": 127, "int4": 7}  # symmetric: -128 and -8 are not used
TINY = torch.finfo(torch.float32).tiny  # smallest scale: below it a float32 has fewer digits
LARGEST = "largest"  # the name of the one vector that holds the numbers of a whole tree
SCALE, INDEX, LIKE = ":scale", ":index", ":like"


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How trees travel; `top_k` is the share of their numbers that do."""

    dtype: Number = "float32"
    scales: Literal["tensor", "row"] = "tensor"
    top_k: float = 1.0

    def encoded(self, trees: dict[str, Tree]) -> dict[str, Tree]:
        """What travels of `trees`. A number that is not finite leaves one in the numbers or the scales.

        A tree with tensors that hold no floating-point numbers, such as seeds, stays as it is.
        """
        sent: dict[str, Tree] = {}
        for key, tree in trees.items():
            is_plain = not all(tensor.is_floating_point() for tensor in tree.values())
            sent |= {key: tree} if is_plain or not tree else self._encoded(key, tree)
        return sent

    def _encoded(self, key: str, tree: Tree) -> dict[str, Tree]:
        like = {name: tensor.new_empty((0, *tensor.shape)) for name, tensor in tree.items()}
        sent: dict[str, Tree] = {key + LIKE: like}
        layout = Layout.of(tree)
        if self.top_k < 1:
            packed = layout.pack(tree)
            index = largest(packed, self.top_k)
            tree = layout.unpack(torch.zeros_like(packed).index_copy(0, index, packed[index]))
        if self.dtype in LEVELS:
            sent[key + SCALE] = {name: self._scale(tensor) for name, tensor in tree.items()}
            tree = {name: self._codes(tensor, sent[key + SCALE][name]) for name, tensor in tree.items()}
        elif self.dtype == "float16":
            tree = {name: tensor.half() for name, tensor in tree.items()}
        if self.top_k < 1:
            sent[key + INDEX] = {LARGEST: index.to(torch.int32 if len(packed) < 2**31 else torch.int64)}
            tree = {LARGEST: layout.pack(tree)[index]}
        sent[key] = {name: two_to_a_byte(t) for name, t in tree.items()} if self.dtype == "int4" else tree
        return sent

    def _scale(self, tensor: Tensor) -> Tensor:
        """Of each group, in float32 and never 0; infinite where the largest number could not be read back."""
        by_row = self.scales == "row" and tensor.ndim > 1
        side = max(range(tensor.ndim), key=lambda dim: (tensor.shape[dim], dim)) if by_row else None
        if tensor.is_meta:  # bytes are counted by shapes alone, for each client of each round: arithmetic takes seconds
            groups = [1 if dim == side else size for dim, size in enumerate(tensor.shape)] if by_row else []
            return tensor.new_empty(groups, dtype=torch.float32)
        levels, magnitude = LEVELS[self.dtype], tensor.abs()
        peak = magnitude.amax() if side is None else magnitude.amax(dim=side, keepdim=True)
        scale = (peak / levels).float().clamp_min(TINY)
        return torch.where((scale * levels).isfinite(), scale, scale * torch.inf)

    def _codes(self, tensor: Tensor, scale: Tensor) -> Tensor:
        levels = LEVELS[self.dtype]
        if tensor.is_meta:
            return torch.empty_like(tensor, dtype=torch.int8)
        return (tensor / scale.to(tensor.dtype)).round().clamp(-levels, levels).to(torch.int8)

    def decoded(self, sent: dict[str, Tree]) -> dict[str, Tree]:
        """The trees that :meth:`encoded` was given, as far as what travelled tells."""
        keys = [key for key in sent if not key.endswith((SCALE, INDEX, LIKE))]
        return {key: self._decoded(key, sent) if key + LIKE in sent else sent[key] for key in keys}

    def _decoded(self, key: str, sent: dict[str, Tree]) -> Tree:
        like, numbers = sent[key + LIKE], sent[key]
        layout = Layout(tuple((name, tensor.shape[1:]) for name, tensor in like.items()))
        if self.dtype == "int4":
            sizes = {name: shape.numel() for name, shape in layout.shapes}
            index = sent.get(key + INDEX, {})
            sizes |= {name: len(where) for name, where in index.items()}
            numbers = {name: from_bytes(tensor, sizes[name]) for name, tensor in numbers.items()}
        if key + INDEX in sent:
            values, total = numbers[LARGEST], sum(shape.numel() for _, shape in layout.shapes)
            where = sent[key + INDEX][LARGEST].long()
            numbers = layout.unpack(values.new_zeros(total).index_copy(0, where, values))
        scales = sent.get(key + SCALE, {})
        found = {name: numbers[name].view(shape).to(like[name].dtype) for name, shape in layout.shapes}
        return {name: t * scales[name].to(t.dtype) if name in scales else t for name, t in found.items()}


def largest(packed_P: Tensor, share: float) -> Tensor:
    """The places of the k numbers of largest magnitude, ascending; NaN counts as the largest."""
    num_sent = max(1, math.ceil(share * len(packed_P)))
    return packed_P.abs().topk(num_sent, sorted=False).indices.sort().values


def two_to_a_byte(codes: Tensor) -> Tensor:
    """Codes in -8..7 as a vector of bytes, the first of two in the low half; an odd last one has a 0 beside it."""
    if codes.is_meta:
        return codes.new_empty((codes.numel() + 1) // 2, dtype=torch.uint8)
    flat = (codes.flatten() + 8).to(torch.uint8)
    if len(flat) % 2:
        flat = torch.cat([flat, flat.new_full((1,), 8)])
    return flat[0::2] + 16 * flat[1::2]


def from_bytes(packed: Tensor, num_codes: int) -> Tensor:
    """The codes that :func:`two_to_a_byte` was given, as a vector of int8."""
    halves = torch.stack([packed % 16, packed // 16], dim=-1).flatten()
    return halves[:num_codes].to(torch.int8) - 8
