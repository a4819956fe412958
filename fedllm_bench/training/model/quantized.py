"""A quantised base: how transformers loads it through bitsandbytes. The adapters on it stay float32.

4bit: NF4 with double quantisation (QLoRA, Dettmers et al., 2023, arXiv:2305.14314, section 3). Weights are unpacked to
the run's type at use, so clients of a pass do not touch each other. 8bit: LLM.int8() (Dettmers et al., 2022,
arXiv:2208.07339). Inputs are rounded too, and a column with a large value in any row of the pass is computed apart, in
all rows: what a client gets depends on who shares its pass, so clients are trained one by one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.preflight import check_quantization
from fedllm_bench.config.run import Model

BLOCK = 64  # weights with one scale, at four bits


def loading_options(config: Model, device: str) -> dict[str, Any]:
    """More arguments of from_pretrained; {} for a base that is not quantised.

    Raises a :class:`UserError` where bitsandbytes is missing.
    """
    if config.quantization == "none":
        return {}
    check_quantization(config)
    # it says at every matrix product that it computes in float16, which is LLM.int8()
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return {"quantization_config": settings(config), "device_map": {"": device}}


def settings(config: Model) -> Any:
    """transformers' BitsAndBytesConfig."""
    from transformers import BitsAndBytesConfig

    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )


def make_exact(base: Any, name: str) -> None:
    """Keep bitsandbytes from unpacking the 4-bit weights of `base` wrongly, which it does in silence on a CPU.

    On a processor with bfloat16 arithmetic it packs them anew at the first pass without gradients. Products from that
    layout are made of inputs, weights and scales in bfloat16 (3e-3 away from float64, where float32 is 2e-7 away), and
    they have no gradient; so that is switched off. And it mixes up scales where a row is not whole blocks of 64
    weights: such a base, called `name`, is refused by a :class:`UserError`.
    """
    from bitsandbytes.nn import Linear4bit

    for path, module in base.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        module.support_avx512bf16_for_cpu = False
        if module.weight.device.type == "cpu" and module.in_features % BLOCK:
            raise UserError(
                f"MODEL={name}: model.quantization=4bit on a CPU needs layers with a multiple of {BLOCK} inputs, and "
                f"{path} has {module.in_features}; give model.quantization=8bit or none, or take a GPU"
            )


def packed(base: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantised, by name: all linear ones but the output head and what is tied to it."""
    from transformers.quantizers.base import get_keys_to_not_convert

    kept = set(get_keys_to_not_convert(base))
    return {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear) and n not in kept}


def packed_bytes(base: nn.Module, quantization: str) -> int:
    """Bytes of all weights of `base`, which is not quantised, once it is."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in base.parameters())
    if quantization == "none":
        return total
    of_weight = {"4bit": _four_bits, "8bit": _eight_bits}[quantization]
    layers = packed(base).values()
    return total + sum(of_weight(layer) - layer.weight.numel() * layer.weight.element_size() for layer in layers)


def _four_bits(layer: nn.Linear) -> int:
    """Two weights a byte; a byte of scale for 64 weights; a float32 for 256 of those; the offset of the scales."""
    blocks = math.ceil(layer.weight.numel() / BLOCK)
    return math.ceil(layer.weight.numel() / 2) + blocks + 4 * math.ceil(blocks / 256) + 4


def _eight_bits(layer: nn.Linear) -> int:
    """A weight a byte, and a float32 for each output."""
    return layer.weight.numel() + 4 * layer.out_features


@contextmanager
def inputs_held(base: nn.Module, quantization: str) -> Iterator[dict[int, int]]:
    """Bytes of each storage that 8-bit layers hold from the forward to the backward pass inside the block.

    bitsandbytes keeps the input of such a layer itself, beside what autograd saves: under gradient checkpointing too.
    """
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # else another tensor could get the place of one that is gone

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        storage = args[0].untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        alive.append(args[0])

    layers = packed(base).values() if quantization == "8bit" else ()
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()
