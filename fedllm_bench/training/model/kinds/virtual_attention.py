"""Attention to virtual tokens: keys and values that stand before those of each sequence, of each client its own.

They are added where attention is computed, and not to a cache of keys and values. So whoever runs the model, to train,
to score or to answer, sees no virtual token: ids, masks, caches and outputs are those of the real ones. Only positions
move on by V, since PEFT counts virtual tokens as tokens.

K clients in the pass, B rows of all of them, h heads, g heads of keys and values, T tokens of a row, S tokens of which
keys are given, V virtual tokens, D numbers of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.training.model.lora import Switch
from fedllm_bench.training.model.packed import packed_attention

NAME = "fedllm_virtual"  # of the attention, in the registries of transformers
HOLDER = "fedllm_virtual_tokens"  # the attribute of a module in which attention finds what stands before its tokens


@dataclass
class Before:
    """What stands before the tokens of a pass: by layer, keys and values of shape (K, g, V, D); {} where nothing does.

    While `recorded` is there, nothing is put before anything, and each layer leaves its keys and values in it.
    """

    switch: Switch
    reserved: int = 0  # positions that virtual tokens take, also while none stand before
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    recorded: dict[int, tuple[Tensor, Tensor]] | None = None

    @property
    def length(self) -> int:
        """V; 0 where nothing stands before."""
        return next((int(keys.shape[-2]) for keys, _ in self.layers.values()), 0)

    @contextmanager
    def recording(self) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
        """Inside the block, keys and values of the tokens that go through the model come into the dictionary.

        They stand before others in the backward pass, where they would be computed again behind themselves.
        """
        before, self.layers, self.recorded, self.switch.keeps = self.layers, {}, {}, True
        try:
            yield self.recorded
        finally:
            self.layers, self.recorded, self.switch.keeps = before, None, False

    def of_rows(self, layer: int, rows: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer for B rows of T tokens, those of a client one behind another: (B, g, V, D)."""
        keys_K, values_K = self.layers[layer]
        if len(keys_K) == 1:
            return keys_K.expand(rows, -1, -1, -1), values_K.expand(rows, -1, -1, -1)
        counts = [segment // tokens for segment in self.switch.segments] or [rows // len(keys_K)] * len(keys_K)
        of_row = torch.tensor(counts, device=keys_K.device)
        return (
            keys_K.repeat_interleave(of_row, 0, output_size=rows),
            values_K.repeat_interleave(of_row, 0, output_size=rows),
        )


def install(base: Any, switch: Switch, reserved: int) -> Before:
    """Let the model's attention be :func:`virtual_attention`, and its decoder count positions from V on, of which
    `reserved` are for virtual tokens.

    Without virtual tokens it answers as it did with the attention "sdpa".
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, virtual_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.get_decoder().config._attn_implementation = NAME
    before = Before(switch, reserved)
    for module in base.modules():
        if isinstance(vars(module).get("layer_idx"), int):
            setattr(module, HOLDER, before)

    def moved_on(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if not before.length:
            return None
        return args, {**kwargs, "position_ids": _positions(args, kwargs) + before.length}

    base.get_decoder().register_forward_pre_hook(moved_on, with_kwargs=True)
    setattr(base, HOLDER, before)
    return before


def _positions(args: Any, kwargs: Any) -> Tensor:
    """Where the tokens of a call of the decoder stand; they follow those of its cache."""
    given: Tensor | None = kwargs.get("position_ids")
    if given is not None:
        return given
    inputs = args[0] if args else kwargs.get("input_ids")
    inputs = kwargs["inputs_embeds"] if inputs is None else inputs
    cache = kwargs.get("cache", kwargs.get("past_key_values"))
    start = 0 if cache is None else int(cache.get_seq_length())
    return torch.arange(start, start + inputs.shape[1], device=inputs.device)[None]


def virtual_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: (B, T, h, D) of `query` (B, h, T, D), `key` and `value` (B, g, S, D)."""
    before: Before | None = vars(module).get(HOLDER)
    if before is None:
        return packed_attention(module, query, key, value, attention_mask, **options)
    layer = int(vars(module)["layer_idx"])
    if before.recorded is not None:
        before.recorded[layer] = (key, value)
    if layer not in before.layers:
        return packed_attention(module, query, key, value, attention_mask, **options)
    keys, values = (part.to(key) for part in before.of_rows(layer, len(query), query.shape[2]))
    mask = with_virtual(attention_mask, query.shape[2], key.shape[2], keys)
    return packed_attention(module, query, torch.cat([keys, key], -2), torch.cat([values, value], -2), mask, **options)


def with_virtual(mask: Tensor | None, tokens: int, seen: int, like: Tensor) -> Tensor | None:
    """The mask of `tokens` over V virtual tokens, which all of them see, and `seen` real ones.

    None is causal, and of one token everything.
    """
    num_virtual = like.shape[-2]
    if mask is None:
        if tokens == 1:
            return None
        causal = torch.ones(tokens, seen, dtype=torch.bool, device=like.device).tril(seen - tokens)
        return torch.cat([causal.new_ones(tokens, num_virtual), causal], -1)
    shape = (*mask.shape[:-1], num_virtual)
    front = mask.new_ones(shape) if mask.dtype == torch.bool else mask.new_zeros(shape)
    return torch.cat([front, mask], -1)


def standing_before(base: Any) -> Before | None:
    """What was installed in a model; None where nothing was."""
    found: Before | None = vars(base).get(HOLDER)
    return found
