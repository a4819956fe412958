"""Whether a run fits into the memory of its device, asked before anything is loaded, and what would fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import size
from fedllm_bench.config import base_model
from fedllm_bench.config.run import RunConfig
from fedllm_bench.training.memory import MemoryEstimate, NoEstimate, estimate
from fedllm_bench.training.model.base import load_settings

log = logging.getLogger(__name__)


def model_settings(config: RunConfig) -> Any:
    """The model's config of transformers; of a model on the hub no other file is fetched."""
    name, revision = config.model.name, config.model.revision
    return load_settings(base_model.locate_settings(name, revision), name)


def check_fits(config: RunConfig, settings: Any, free: int) -> None:
    """Warn where the run is not expected to fit into `free` bytes, with settings of equal results that are.

    Raises a :class:`UserError` where nothing that keeps the results would fit.
    """
    try:
        needed = estimate(config, settings)
    except NoEstimate as error:
        log.info("%s", error)
        return
    if needed.total <= free:
        return
    smaller, problem = config, f"memory: about {in_words(needed)} are needed, and {size(free)} are free"
    for smaller, words in _ladder(config):
        needed = estimate(smaller, settings)
        if needed.total <= free:
            log.warning("%s; %s would fit: %s", problem, size(needed.total), " ".join(f"--set {w}" for w in words))
            return
    raise UserError(
        f"{problem}; even one row of one client with gradient checkpointing needs {size(needed.total)}; "
        f"what changes results: {_packed(smaller, settings)}--set model.dtype=bfloat16, a smaller MODEL, "
        "local.sequence_length or lora.rank; or take a larger device"
    )


def _packed(config: RunConfig, settings: Any) -> str:
    """What a 4-bit base would need at most savings; "" where it is quantised, or cannot be."""
    model = config.model
    if model.quantization != "none" or model.trainable == "full" or model.adapter is not None:
        return ""
    needed = estimate(replace(config, model=replace(model, quantization="4bit")), settings)
    return f"--set model.quantization=4bit (needs {size(needed.total)}), "


def _ladder(config: RunConfig) -> Iterator[tuple[RunConfig, tuple[str, ...]]]:
    """Settings that need less and less memory, and the words to ask for them; all compute the same steps."""
    words: tuple[str, ...] = ()
    local = config.local
    if local.block_size > 1:
        local, words = replace(local, block_size=1), ("local.block_size=1",)
        yield replace(config, local=local), words
    if not local.gradient_checkpointing:
        local, words = replace(local, gradient_checkpointing=True), (*words, "local.gradient_checkpointing=true")
        yield replace(config, local=local), words
    if config.model.quantization == "8bit":
        return  # a row's outputs depend on which others share its pass
    while local.micro_batch > 1 and local.micro_batch % 2 == 0:
        local = replace(local, micro_batch=local.micro_batch // 2, accumulation=local.accumulation * 2)
        rows = (f"local.micro_batch={local.micro_batch}", f"local.accumulation={local.accumulation}")
        yield replace(config, local=local), (*words, *rows)


def in_words(needed: MemoryEstimate) -> str:
    """ "14.8 GB (base 13.5 GB, activations 1.8 GB, ...)"."""
    parts = {name: getattr(needed, name) for name in ("base", "activations", "optimizer", "adapters", "logits")}
    return f"{size(needed.total)} ({', '.join(f'{name} {size(value)}' for name, value in parts.items())})"
