"""Rows that begin alike: the keys and values of their common beginning are computed once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from fedllm_bench.evaluation.answering.kv_cache import as_argument
from fedllm_bench.training.model.lora_model import LoraModel

# B rows of a batch, h heads, P tokens of the common beginning, T others with their padding, D numbers of a head


class SharedLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of the common beginning, shape (1, h, P, D); what comes behind it is not kept."""

    @classmethod
    def of(cls, layer: DynamicLayer) -> SharedLayer:
        shared = cls()
        shared.lazy_initialization(layer.keys, layer.values)
        shared.keys, shared.values = layer.keys, layer.values
        return shared

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values of B rows, from those of T tokens of each, shape (B, h, T, D)."""
        rows = len(key_states)
        keys, values = (kept.expand(rows, -1, -1, -1) for kept in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def beginning(model: LoraModel, ids: Sequence[int]) -> Cache:
    """The cache of a common beginning of P tokens."""
    cache = DynamicCache(config=model.base.config)
    decoder = model.base.get_decoder()
    decoder(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=True, **as_argument(decoder, cache))
    return Cache(layers=[SharedLayer.of(layer) for layer in cache.layers])


def hidden_behind(model: LoraModel, cache: Cache | None, ids: Tensor) -> Tensor:
    """Last hidden states of what stands behind a common beginning, of ids padded behind, shape (B, T)."""
    if cache is None:
        return model.hidden(ids)
    decoder = model.base.get_decoder()
    states: Tensor = decoder(input_ids=ids, use_cache=True, **as_argument(decoder, cache)).last_hidden_state
    return states
