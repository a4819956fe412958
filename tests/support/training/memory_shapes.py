"""Published shapes of models, and rows that fill a sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import random_part

from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.tokens import TokenPart

ROWS, LENGTH = 4, 64


@pytest.fixture
def llama_7b():
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)


@pytest.fixture
def paper() -> RunConfig:
    return presets.load("aya", "fedavg", "paper")


def with_local(config: RunConfig, **changes) -> RunConfig:
    return replace(config, local=replace(config.local, **changes))


def full_rows(num_rows: int) -> TokenPart:
    part = random_part(1, num_rows)
    ids = torch.arange(num_rows * LENGTH).numpy() % 2000 + 4
    starts = torch.arange(num_rows + 1).numpy() * LENGTH
    return replace(part, ids=ids.astype("int32"), counted=ids > 0, starts=starts, rows=starts[:-1])
