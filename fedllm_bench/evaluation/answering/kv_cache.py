"""A KV cache that is filled in tight passes, written in place, and from which finished rows are taken out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from fedllm_bench.metrics.running import by_length

ROOM = 128  # tokens that are allocated ahead
READ_TOKENS = 2048  # in one pass over prompts
# B rows, h heads, T tokens, D numbers of a head


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer, shape (B, h, T, D), in memory that holds up to ROOM more tokens.

    transformers' own layer copies all keys and values at every step, which takes longer than the step itself once
    many rows go through a small model. `keys` and `values` are views of what is filled.
    """

    buffers: tuple[Tensor, Tensor]

    def fill(self, parts: Sequence[DynamicLayer], places: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """Start from rows that were read apart: rows `places[i]` are in `parts[i]`, padded behind `lengths`.

        Here they are padded in front.
        """
        _, heads, _, size = parts[0].keys.shape
        self.lazy_initialization(parts[0].keys, parts[0].values)
        width = max(lengths)
        shape, value_size = (len(lengths), heads, width + ROOM), parts[0].values.shape[-1]
        self.buffers = (parts[0].keys.new_zeros(*shape, size), parts[0].values.new_zeros(*shape, value_size))
        for part, rows in zip(parts, places, strict=True):
            for place, row in enumerate(rows):
                start, length = width - lengths[row], lengths[row]
                self.buffers[0][row, :, start:width] = part.keys[place, :, :length]
                self.buffers[1][row, :, start:width] = part.values[place, :, :length]
        self.keys, self.values = (buffer[:, :, :width] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append T' tokens, shape (B, h, T', D); returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = (key_states[:, :, :0], value_states[:, :, :0])
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.buffers[0].shape[-2]:
            self.buffers = (_larger(self.buffers[0], start, end), _larger(self.buffers[1], start, end))
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; the layers of a base may lie on several devices."""
        super().batch_select_indices(indices.to(self.keys.device))
        self.buffers = (self.keys, self.values)


def _larger(buffer: Tensor, filled: int, needed: int) -> Tensor:
    batch, heads, _, size = buffer.shape
    larger = buffer.new_empty(batch, heads, needed + ROOM, size)
    larger[:, :, :filled] = buffer[:, :, :filled]
    return larger


def as_argument(model: Any, cache: Cache | None) -> dict[str, Any]:
    """`cache` under the name that this model takes: transformers called it past_key_values before 5.24."""
    names = inspect.signature(type(model).forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def is_plain(base: Any) -> bool:
    """Whether every layer of the model keeps keys and values of all tokens, and nothing else."""
    layers = DynamicCache(config=base.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def read(base: Any, texts: Sequence[Sequence[int]], device: torch.device) -> Cache:
    """The cache of a batch that is padded in front, with all of each text but its last token.

    Texts go through a plain model in passes of like length, padded behind, so that attention is causal without a mask
    and no token sees padding.
    """
    cache = Cache(layers=[GrowingLayer() for _ in DynamicCache(config=base.config).layers])
    lengths = [len(text) - 1 for text in texts]
    places = [rows for rows in by_length(lengths, READ_TOKENS) if max(lengths[row] for row in rows)]
    decoder, parts = base.get_decoder(), []
    for rows in places:
        width = max(lengths[row] for row in rows)
        ids = [[*texts[row][:-1], *[0] * (width - lengths[row])] for row in rows]
        part = DynamicCache(config=base.config)
        decoder(input_ids=torch.tensor(ids, device=device), use_cache=True, **as_argument(decoder, part))
        parts.append(part)
    for number, layer in enumerate(cache.layers if parts else ()):
        layer.fill([part.layers[number] for part in parts], places, lengths)
    return cache


def select(cache: Cache, rows: Sequence[int], device: torch.device) -> None:
    """Keep these rows."""
    cache.batch_select_indices(torch.tensor(rows, device=device))
