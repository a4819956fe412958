"""Whether a run fits into the memory of its device, asked before anything is loaded, and what would fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import size
from fedllm_bench.config import base_model
from fedllm_bench.config.run import RunConfig
from fedllm_bench.training.memory import MemoryEstimate, NoEstimate, estimate, has_no_backward_pass
from fedllm_bench.training.model.base import load_settings
from fedllm_bench.training.process_memory import ProcessEstimate, estimate_process

log = logging.getLogger(__name__)
ERROR = 0.3  # the share by which estimates of a process were off at most (LOG.md)
LARGER_GPU = "a larger device, or several: --set model.device_map=balanced"
SMALL_BATCH = 1024  # tokens of a batch of scoring: a CPU scores smaller ones no faster, and larger ones neither


def model_settings(config: RunConfig) -> Any:
    """The model's config of transformers; of a model on the hub no other file is fetched."""
    name, revision = config.model.name, config.model.revision
    return load_settings(base_model.locate_settings(name, revision), name)


def check_fits(config: RunConfig, settings: Any, free: int) -> None:
    """Warn where training is not expected to fit into `free` bytes of the GPU, with settings of equal results that are.

    Under `model.device_map` these are the bytes of all GPUs together.

    Raises a :class:`UserError` where nothing that keeps the results would fit.
    """
    _check(config, settings, free, MemoryKind(estimate, in_words, _ladder, margin=0.0, larger=LARGER_GPU))


def check_process_fits(config: RunConfig, settings: Any, free: int) -> None:
    """As :func:`check_fits`, of a whole process on a CPU, scoring included.

    Refused is only what would not fit if it needed less than estimated by as much as estimates were off.
    """
    larger = "a machine with more free memory"
    _check(config, settings, free, MemoryKind(estimate_process, process_in_words, _process_ladder, ERROR, larger))


@dataclass(frozen=True)
class MemoryKind:
    """A memory that runs share: how to estimate, to say and to need less of it; `margin` is the estimate's error."""

    estimate: Callable[[RunConfig, Any], Any]
    in_words: Callable[[Any], str]
    ladder: Callable[[RunConfig], Iterator[tuple[RunConfig, tuple[str, ...]]]]
    margin: float
    larger: str


def _check(config: RunConfig, settings: Any, free: int, place: MemoryKind) -> None:
    try:
        needed = place.estimate(config, settings)
    except NoEstimate as error:
        log.info("%s", error)
        return
    if needed.total <= free:
        return
    smaller, problem = config, f"memory: about {place.in_words(needed)} are needed, and {size(free)} are free"
    for smaller, words in place.ladder(config):
        needed = place.estimate(smaller, settings)
        if needed.total <= free:
            log.warning("%s; %s would fit: %s", problem, size(needed.total), " ".join(f"--set {w}" for w in words))
            return
    how = "" if has_no_backward_pass(config) else " with gradient checkpointing"
    at_least = f"even one row of one client{how} needs {size(needed.total)}"
    if needed.total * (1 - place.margin) <= free:
        log.warning("%s; %s, so it may not fit", problem, at_least)
        return
    raise UserError(
        f"{problem}; {at_least}; what changes results: {_packed(smaller, settings, place)}--set model.dtype=bfloat16, "
        f"a smaller MODEL, local.sequence_length or lora.rank; or take {place.larger}"
    )


def _packed(config: RunConfig, settings: Any, place: MemoryKind) -> str:
    """What a 4-bit base would need at most savings; "" where it is quantised, or cannot be."""
    model = config.model
    if model.quantization != "none" or model.trainable == "full" or model.adapter is not None or model.device_map:
        return ""
    if not config.adapter.is_lora:
        return ""
    needed = place.estimate(replace(config, model=replace(model, quantization="4bit")), settings)
    return f"--set model.quantization=4bit (needs {size(needed.total)}), "


def _process_ladder(config: RunConfig) -> Iterator[tuple[RunConfig, tuple[str, ...]]]:
    """Smaller batches of scoring first, which cost no time on a CPU; then what training can do with less."""
    evaluation, words = config.evaluation, tuple[str, ...]()
    least = max(SMALL_BATCH, config.local.sequence_length)
    while evaluation.batch_tokens > least:
        evaluation = replace(evaluation, batch_tokens=max(least, evaluation.batch_tokens // 4))
        words = (f"evaluation.batch_tokens={evaluation.batch_tokens}",)
        yield replace(config, evaluation=evaluation), words
    for smaller, more in _ladder(replace(config, evaluation=evaluation)):
        yield smaller, (*words, *more)


def _ladder(config: RunConfig) -> Iterator[tuple[RunConfig, tuple[str, ...]]]:
    """Settings that need less and less memory, and the words to ask for them; all compute the same steps."""
    words: tuple[str, ...] = ()
    local = config.local
    if local.block_size > 1:
        local, words = replace(local, block_size=1), ("local.block_size=1",)
        yield replace(config, local=local), words
    if not local.gradient_checkpointing and not has_no_backward_pass(config):
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


def process_in_words(needed: ProcessEstimate) -> str:
    """ "3.1 GB (libraries 0.7 GB, base 0.5 GB, scoring 1.1 GB, training 1.4 GB)"."""
    parts = {name: getattr(needed, name) for name in ("libraries", "base", "scoring", "training")}
    return f"{size(needed.total)} ({', '.join(f'{name} {size(value)}' for name, value in parts.items())})"
