"""A quantised base: how transformers loads it through bitsandbytes. The adapters on it stay float32.

4bit: NF4 with double quantisation (QLoRA, Dettmers et al., 2023, arXiv:2305.14314, section 3). Weights are unpacked to
the run's type at use, so clients of a pass do not touch each other. 8bit: LLM.int8() (Dettmers et al., 2022,
arXiv:2208.07339). Inputs are rounded too, and a column with a large value in any row of the pass is computed apart, in
all rows: what a client gets depends on who shares its pass, so clients are trained one by one.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from fedllm_bench.config import Model
from fedllm_bench.preflight import check_quantization


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


def keep_layout(base: Any) -> None:
    """Leave 4-bit weights as they lie.

    On a CPU with bfloat16 arithmetic bitsandbytes packs them anew at the first pass without gradients, and has no
    gradient for that layout: training would go on with wrong numbers.
    """
    from bitsandbytes.nn import Linear4bit

    for module in base.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
