"""What memory a whole process of a run will need on a CPU: libraries, base, scoring and training.

`training/memory.py` counts the tensors of a training step. On a CPU they share memory with everything else, scoring
too takes from it, and the allocator of the command line gives nothing back (`common/process.py`): what is free lies in
pieces, some of which are too small for the next tensor. So the larger one of scoring and training counts, with a share
for that. Files that are mapped into memory are not in it, since the kernel takes their pages back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import trains_alone
from fedllm_bench.training.live_memory import LiveBytes
from fedllm_bench.training.loss import tokens_at_once
from fedllm_bench.training.memory import (
    FLOAT32,
    SCORED_COPIES,
    empty_base,
    estimate,
    filled,
    with_layers,
)

# The interpreter with torch, transformers and PEFT, and for each entry of the vocabulary what a tokenizer makes of it;
# measured (LOG.md).
LIBRARIES, TOKENIZER_ENTRY = 300 * 10**6, 2200
PIECES = 1.15  # memory of the allocator for one byte of tensors alive at the peak; measured (LOG.md)


@dataclass(frozen=True)
class ProcessEstimate:
    """Bytes. `scoring` and `training` are tensors beside the base; memory serves one after the other.

    `base` counts twice where a run of the local baseline comes after, which loads its own.
    """

    libraries: int
    base: int
    scoring: int
    training: int

    @property
    def total(self) -> int:
        return self.libraries + self.base + round(PIECES * max(self.scoring, self.training))


def estimate_process(config: RunConfig, settings: Any) -> ProcessEstimate:
    """For rows of the full sequence length; `settings` is the model's config of transformers.

    Raises what :func:`fedllm_bench.training.memory.estimate` raises.
    """
    needed = estimate(config, settings, "cpu")
    method = METHODS.get(config.method.name)  # an unknown one is refused elsewhere
    bases = needed.base * (1 if method is not None and trains_alone(method) else 2)
    libraries = LIBRARIES + TOKENIZER_ENTRY * int(settings.get_text_config().vocab_size)
    return ProcessEstimate(libraries, bases, scoring_bytes(config, settings), needed.total - needed.base)


def scoring_bytes(config: RunConfig, settings: Any) -> int:
    """Tensors of the largest batch of scoring on its way through the decoder, and logits of its answers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    length = config.local.sequence_length
    rows = max(1, config.evaluation.batch_tokens // length)
    model = with_layers(empty_base(config, settings), config)
    with FakeTensorMode(), torch.no_grad():
        model = filled(model)
        live = LiveBytes([*model.base.parameters(), *model.base.buffers()])
        ids = torch.zeros(rows, length, dtype=torch.long)
        with live:
            model.hidden(ids)
    logits = min(tokens_at_once(model.vocabulary), rows * length) * model.vocabulary
    return live.peak + logits * (SCORED_COPIES * FLOAT32 + int(model.base.dtype.itemsize))
