"""Profile gpu24 fits on one card with 24 GB by the estimate, in training and in scoring; no such card was measured."""

from __future__ import annotations

import pytest

from fedllm_bench.config import presets
from fedllm_bench.config.bases import declared
from fedllm_bench.training.memory import empty_base, estimate
from fedllm_bench.training.process_memory import scoring_bytes

CARD = 24 * 10**9
SPARE = 0.75  # for fragments and the CUDA context, and since an estimate is none too sure
SIZES = {  # of the models' own config.json
    "qwen3-1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "tie_word_embeddings": True},
    "qwen3-8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
                 "tie_word_embeddings": False},
}  # fmt: skip


@pytest.mark.parametrize("dataset", ["aya", "chatbot_pa"])
@pytest.mark.parametrize(("name", "words"), [("qwen3-1.7b", ()), ("qwen3-8b", ("model.quantization=4bit",))])
def test_it_fits_into_24_gigabytes(name, words, dataset):
    from transformers import Qwen3Config

    settings = Qwen3Config(**SIZES[name], num_key_value_heads=8, head_dim=128, vocab_size=151936)
    config = presets.load(dataset, "fedavg", "gpu24", words, model=name)
    base = declared.base_of(name)
    assert base is not None
    assert sum(p.numel() for p in empty_base(config, settings).parameters()) == base.parameters
    needed = estimate(config, settings)
    assert needed.total < SPARE * CARD
    assert needed.base + scoring_bytes(config, settings) < SPARE * CARD
