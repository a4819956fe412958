"""How many tokens of answers in the making a device has room for."""

from __future__ import annotations

from typing import Any

import torch

from fedllm_bench.evaluation.answering.kv_cache import is_plain, read
from fedllm_bench.training.model.lora_model import LoraModel

CPU_BYTES = 2**30
GPU_SHARE = 0.6  # of what is free once the model is loaded; the rest is for logits and passes over prompts
LEAST, MOST, UNKNOWN = 2048, 2**20, 2**14  # tokens


def batch_tokens(model: LoraModel) -> int:
    """Tokens, prompts and new ones together, whose keys and values fit the memory to be used; a power of two."""
    if not is_plain(model.base):
        return UNKNOWN
    with torch.no_grad():
        cache = read(model.base, [[0, 0]], model.device)
    room = CPU_BYTES if model.device.type == "cpu" else _free_bytes(model.device)
    tokens = max(LEAST, min(MOST, int(room // bytes_of(cache))))
    return int(2 ** (tokens.bit_length() - 1))


def bytes_of(cache: Any) -> int:
    """Of the keys and values in a cache."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _free_bytes(device: torch.device) -> float:
    free, _ = torch.cuda.mem_get_info(device)
    return GPU_SHARE * free
