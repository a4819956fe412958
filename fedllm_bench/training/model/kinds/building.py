"""The layers of a kind of adapter in a base: which module gets what, and whether the base can have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.config.kinds.adapter_kind import VIRTUAL, WORDS, AdapterKind
from fedllm_bench.training.model.base import FORWARD_ERRORS
from fedllm_bench.training.model.kinds.beside import BesideLayer, put_in_place
from fedllm_bench.training.model.kinds.bottleneck import BottleneckLayer
from fedllm_bench.training.model.kinds.scaled import ScaledLayer
from fedllm_bench.training.model.kinds.virtual import KINDS, VirtualTokens, of_embeddings, sizes_of
from fedllm_bench.training.model.lora import AdaptedLayer, Switch
from fedllm_bench.training.model.targets import AUTO, matching

KEY = "adapter.targets"
PROBED = (5, 9)  # virtual and real tokens of the probe
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.05  # of the norm of the states


def insert_kind(base: Any, adapter: AdapterKind) -> tuple[Mapping[str, AdaptedLayer], Switch, tuple[str, ...]]:
    """Freeze `base` and put the layers of `adapter`, which is not LoRA, into it.

    Returns the layers by module name, their switch, and the names of the adapted layers: () of virtual tokens.
    Raises a :class:`UserError` for wrong names, and for a base whose attention keeps more than keys and values.
    """
    switch = Switch()
    if adapter.kind in VIRTUAL:
        _check_caches(base, adapter)
        return {"": KINDS[adapter.kind](base, sizes_of(base, adapter), switch)}, switch, ()
    names, feedforward = _names(base, adapter)
    found = matching(base, names, KEY)
    inputs = _matched(found, feedforward)
    layers = {name: _layer(name, module, adapter, switch, of_inputs=name in inputs) for name, module in found.items()}
    base.requires_grad_(False)  # nothing of it is changed before all layers can be made
    for name, layer in layers.items():
        put_in_place(base, name, layer)
    return layers, switch, names


def _layer(name: str, module: nn.Module, adapter: AdapterKind, switch: Switch, *, of_inputs: bool) -> BesideLayer:
    try:
        if adapter.kind == "ia3":
            layer: BesideLayer = ScaledLayer(module, switch, of_inputs=of_inputs)
            layer.shapes(1)
        else:
            layer = BottleneckLayer(module, switch, reduction=adapter.times_smaller)
    except TypeError as error:
        raise UserError(
            f"{KEY}: {name} is a {type(module).__name__}, and adapter.kind={adapter.kind} is for linear layers; name "
            "others"
        ) from error
    return layer


def _names(base: Any, adapter: AdapterKind) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers that get the adapter, and those of them that end the feed-forward network, by PEFT's tables."""
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    )

    kind, given = base.config.model_type, adapter.layers
    feedforward = tuple(TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind, ()))
    if AUTO not in given:
        return given, feedforward
    if len(given) > 1:
        raise UserError(f"{KEY}: {AUTO} stands alone, but got {', '.join(given)}; name layers, or leave it out")
    table = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    chosen = tuple(table.get(kind, ())) if adapter.kind == "ia3" else feedforward
    if not chosen:
        raise UserError(
            f"{KEY}: PEFT has no choice of layers for the architecture {kind} under adapter.kind={adapter.kind}; name "
            f"them with --set {KEY}=a,b"
        )
    return tuple(sorted(chosen)), feedforward


def _matched(found: Mapping[str, nn.Module], names: tuple[str, ...]) -> set[str]:
    """Those of the full names that are, or end with, one of `names`."""
    return {full for full in found if any(full == name or full.endswith(f".{name}") for name in names)}


def feedforward_of(base: Any, names: tuple[str, ...], layers: Mapping[str, AdaptedLayer]) -> tuple[str, ...]:
    """Which of `names` scale inputs, for PEFT's settings."""
    scaled = [full for full, layer in layers.items() if isinstance(layer, ScaledLayer) and layer.of_inputs]
    return tuple(n for n in names if any(full == n or full.endswith(f".{n}") for full in scaled))


def _check_caches(base: Any, adapter: AdapterKind) -> None:
    """PEFT puts virtual tokens into the cache, which a layer with a window forgets, and which some have not."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=base.config).layers
    other = [type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer]
    if other or not layers:
        raise UserError(
            f"adapter.kind={adapter.kind}: a layer of {base.config.model_type} keeps {other[0] if other else 'nothing'}"
            ", not the keys and values of all tokens, so virtual tokens would be forgotten; take lora, ia3 or "
            "bottleneck"
        )


def check_virtual(base: Any, layers: Mapping[str, AdaptedLayer], adapter: AdapterKind) -> None:
    """Try whether the base takes virtual tokens: real ones as virtual ones must give what they give as real ones.

    Raises a :class:`UserError` where they do not. Positions, masks and attention of any architecture are in it.
    """
    virtual = next((layer for layer in layers.values() if isinstance(layer, VirtualTokens)), None)
    if virtual is None:
        return
    try:
        with torch.no_grad():
            found, expected = _probe(base, virtual)
        problem = (
            "" if _is_close(found, expected, base.dtype) else "its tokens see virtual ones otherwise than real ones"
        )
    except (*FORWARD_ERRORS, KeyError) as error:
        problem = first_line(error)[:200] or type(error).__name__
    finally:
        virtual.detach()
    if problem:
        raise UserError(
            f"adapter.kind={adapter.kind}: {base.config.model_type} takes no {WORDS[adapter.kind]} here ({problem}); "
            "take lora, ia3 or bottleneck"
        )


def _probe(base: Any, virtual: VirtualTokens) -> tuple[Tensor, Tensor]:
    """States of two rows of real tokens behind others, which are virtual and then real."""
    num_virtual, num_real = PROBED
    rows = base.config.get_text_config().vocab_size
    ids = (torch.arange(2 * num_real + num_virtual, device=base.device) * 37 + 11) % rows
    front, real = ids[:num_virtual], ids[num_virtual:].view(2, -1)
    decoder = base.get_decoder()
    whole = torch.cat([front.expand(2, -1), real], 1)
    expected = decoder(input_ids=whole, use_cache=False).last_hidden_state[:, num_virtual:]
    virtual.before.layers = of_embeddings(base, virtual.before, base.get_input_embeddings()(front)[None])
    if len(virtual.before.layers) != virtual.sizes.layers:
        raise ValueError(f"{len(virtual.before.layers)} of {virtual.sizes.layers} layers have keys of their own")
    return decoder(input_ids=real, use_cache=False).last_hidden_state, expected


def _is_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    limit = TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_TOLERANCE
    return bool((found.double() - expected.double()).norm() <= limit * expected.double().norm())
