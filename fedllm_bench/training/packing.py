"""How sequences lie one behind another in one row.

N tokens of all S sequences, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


def spans_of(ids: Tensor, packing: Packing | None) -> tuple[int, ...]:
    """How many tokens each sequence takes of `ids`: padded rows (S, T), padding included, or a packed row (1, N)."""
    return (ids.shape[1],) * len(ids) if packing is None else packing.lengths


@dataclass(frozen=True)
class Packing:
    """How sequences lie in a row of N tokens: their `lengths`, `positions` (1, N) and `bounds` (S + 1,), int32.

    `bounds` are where each begins, and where the last ends.
    """

    lengths: tuple[int, ...]
    positions: Tensor
    bounds: Tensor
    _elsewhere: dict[torch.device, Packing] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        positions = np.concatenate([np.arange(length) for length in lengths])
        bounds = np.cumsum([0, *lengths]).astype(np.int32)
        return cls(tuple(lengths), torch.from_numpy(positions)[None].to(device), torch.from_numpy(bounds).to(device))

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Packing:
        """The same on another device, copied once; accelerate asks for it where a model lies on several."""
        place = torch.device(device)
        if place == self.positions.device:
            return self
        if place not in self._elsewhere:
            positions, bounds = (each.to(place, non_blocking=non_blocking) for each in (self.positions, self.bounds))
            self._elsewhere[place] = Packing(self.lengths, positions, bounds)
        return self._elsewhere[place]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def sequences_of(self, places_C: Tensor) -> Tensor:
        """The number of the sequence of each token, from its place in the row; shape (C,)."""
        return torch.searchsorted(self.bounds, places_C, right=True) - 1

    @property
    def is_even(self) -> bool:
        """Whether all sequences are as long: then rows need no padding."""
        return min(self.lengths) == self.longest

    @cached_property
    def place_of(self) -> Tensor:
        """Where each token lies among S x T padded places, (N,)."""
        rows = np.arange(len(self.lengths)).repeat(self.lengths)
        return torch.from_numpy(rows * self.longest).to(self.positions.device) + self.positions[0]

    @cached_property
    def token_at(self) -> Tensor:
        """The token at each of S x T padded places, (S * T,); N where there is none."""
        num_tokens = sum(self.lengths)
        found = self.place_of.new_full((len(self.lengths) * self.longest,), num_tokens)
        found[self.place_of] = torch.arange(num_tokens, device=found.device)
        return found
