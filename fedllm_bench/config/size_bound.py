"""An upper bound of the memory of a run from a few numbers of config.json, so that small runs start at once.

An estimate of memory (`training/process_memory.py`) loads torch and the model's code, and takes seconds. Where this
bound, which is coarse, is below what is free, there is nothing to estimate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model, model_files
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.run import RunConfig

LIBRARIES = 1_500_000_000
NUMBER = 4  # bytes of a float32
ADAPTED = 14  # times the numbers of an adapter: states of the optimiser and copies on the way
LOGITS, AT_ONCE, LEAST_TOKENS = 20, 2**24, 256  # a chunk of logits with what its loss makes of it (training/loss.py)
PIECES = 1.5  # what an allocator needs for pieces that are too small
DENSE = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3")  # layers as counted here


def fits_for_sure(config: RunConfig, free: int) -> bool:
    """Whether the bound of a process of this run is within `free` bytes; False where nothing is known."""
    if config.model.quantization != "none" or not base_model.is_available(config.model.name, config.model.revision):
        return False
    try:
        folder = base_model.locate_settings(config.model.name, config.model.revision)
    except UserError:  # who loads it says so
        return False
    bound = bound_of(config, folder)
    return bound is not None and bound <= free


def bound_of(config: RunConfig, folder: Path) -> int | None:
    """Bytes that a run with the base in `folder` does not exceed; None where its architecture is not a known one."""
    settings, parameters = model_files.read_settings(folder), model_files.num_parameters(folder)
    sizes = [settings.get(name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers")]
    heads = settings.get("num_attention_heads")
    if settings.get("model_type") not in DENSE or not all(_is_count(n) for n in (*sizes, heads, parameters)):
        return None
    hidden, inner, layers = (int(n or 0) for n in sizes)
    head_size = settings.get("head_dim")
    width = max(hidden, int(heads or 0) * (int(head_size or 0) if _is_count(head_size) else 0))
    local = config.local
    sequences = local.block_size * local.micro_batch * (2 if local.loss == "dpo" else 1)
    length = local.sequence_length + config.adapter.num_tokens
    tokens = max(sequences * length, config.evaluation.batch_tokens)
    # of a token in a layer: what is kept of linear layers, norms, attention with its mask, and of LoRA
    of_token = 32 * width + 12 * inner + 4 * int(heads or 0) * length + 32 * config.lora.rank
    trained = config.lora.rank * layers * (12 * width + 4 * inner) * local.block_size
    if not config.adapter.is_lora:
        trained = _of_kind(config.adapter, width, inner, layers) * local.block_size
    if config.model.trainable == "full":
        trained = int(parameters or 0)
    numbers = int(parameters or 0) * 2 + ADAPTED * trained + layers * tokens * of_token
    vocabulary = settings.get("vocab_size")
    logits = LOGITS * max(AT_ONCE, LEAST_TOKENS * (int(vocabulary or 0) if _is_count(vocabulary) else 2**18))
    return LIBRARIES + round(PIECES * (NUMBER * numbers + logits))


def _of_kind(adapter: AdapterKind, width: int, inner: int, layers: int) -> int:
    """Numbers that a kind of adapter has at most, were all linear layers of the decoder its targets."""
    if adapter.kind == "prefix":
        return 2 * layers * adapter.num_tokens * width
    if adapter.kind == "prompt":
        return adapter.num_tokens * width
    if adapter.kind == "p_tuning":
        inside = adapter.encoder_width or width
        return adapter.num_tokens * width + (2 * width + inside + 3) * inside + width
    most = 4 * width + 3 * max(width, inner)  # outputs, or inputs, of seven layers
    if adapter.kind == "ia3":
        return layers * most
    return layers * 2 * (most + 7) * (max(width, inner) // adapter.times_smaller + 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
