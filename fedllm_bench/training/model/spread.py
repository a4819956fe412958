"""A base over several GPUs: transformers places its layers by `model.device_map`, accelerate moves what goes through.

One client at a time. Adapters, states and uploads lie with the embeddings; each layer gets its part of an adapter where
it lies itself, and gradients come back the same way.
"""

from __future__ import annotations

from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import Model


def loading_options(config: Model) -> dict[str, Any]:
    """More arguments of from_pretrained; {} for a base on one device."""
    return {"device_map": config.device_map} if config.device_map else {}


def check_placed(base: Any, config: Model, device: str) -> None:
    """Raise a :class:`UserError` where accelerate left weights off the devices of this kind: GPUs without enough room.

    It would fetch such weights for each layer anew, and the backward pass would not find them.
    """
    if not config.device_map:
        return
    weights = dict(base.named_parameters())
    off = [name for name, weight in weights.items() if weight.device.type != device.partition(":")[0]]
    if off:
        raise UserError(
            f"MODEL={config.name}: {counted(len(off), 'weight')} of {len(weights)} found no room on the GPUs under "
            f"model.device_map={config.device_map}, as {off[0]}; take more or larger GPUs, --set "
            "model.dtype=bfloat16, or a smaller MODEL"
        )
