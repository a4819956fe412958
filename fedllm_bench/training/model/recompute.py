"""Gradient checkpointing: each layer of the decoder keeps its input alone, and is computed again in the backward pass.

Chen et al., 2016 (arXiv:1604.06174). The same numbers for a third more work: dropout masks of the second pass are those
of the first, because each client's stream is set back to where it stood when the layer was first computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fedllm_bench.common.errors import UserError
from fedllm_bench.training.model.lora import Switch
from fedllm_bench.training.model.lora_model import LoraModel


@contextmanager
def recomputing(model: LoraModel, wanted: bool) -> Iterator[None]:
    """Inside the block, layers are checkpointed where `wanted`.

    Raises a :class:`UserError` for a model without layers that transformers marks as such.
    """
    layers = decoder_layers(model.base) if wanted else []
    if wanted and not layers:
        kind = model.base.config.model_type
        raise UserError(
            f"local.gradient_checkpointing=true: {kind} has no layers that transformers can checkpoint; "
            "--set local.gradient_checkpointing=false"
        )
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_checkpointed, layer.forward, model.switch)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def decoder_layers(base: nn.Module) -> list[Any]:
    """The outermost layers that transformers would checkpoint. Its own switch works in training mode alone, and that
    would turn on the base's dropout."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = {name: module for name, module in base.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    inner = {name for name in found if any(name.startswith(f"{outer}.") for outer in found)}
    return [module for name, module in found.items() if name not in inner]


def _checkpointed(forward: Any, switch: Switch, *args: Any, **kwargs: Any) -> Any:
    if switch.keeps:
        return forward(*args, **kwargs)
    # the base is in evaluation mode: no other random number is drawn in a layer than those of `switch`
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=partial(_contexts, switch),
        **kwargs,
    )


def _contexts(switch: Switch) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first and the second pass of a layer; called when the first begins."""
    if switch.masks is None or not switch.dropout:
        return nullcontext(), nullcontext()
    streams = switch.masks.streams
    return nullcontext(), _as_then(streams, [stream.get_state() for stream in streams])


@contextmanager
def _as_then(streams: Sequence[torch.Generator], states: Sequence[torch.Tensor]) -> Iterator[None]:
    """The streams as they stood then; afterwards where they stand now."""
    now = [stream.get_state() for stream in streams]
    for stream, state in zip(streams, states, strict=True):
        stream.set_state(state)
    try:
        yield
    finally:
        for stream, state in zip(streams, now, strict=True):
            stream.set_state(state)
