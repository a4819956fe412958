"""Greedy answers of a model, in batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedllm_bench.data.rows import Turn
from fedllm_bench.data.tokens import encode_prompts
from fedllm_bench.metrics.batching import by_length
from fedllm_bench.metrics.settings import EvalSettings
from fedllm_bench.training.model.lora_model import LoraModel


def answers(model: LoraModel, conversations: Sequence[Sequence[Turn]], settings: EvalSettings) -> list[str]:
    """One greedy answer for each conversation that ends with the user's turn, without surrounding spaces."""
    prompts = encode_prompts(conversations, model.tokenizer, settings.template)
    found = [""] * len(prompts)
    lengths = [len(prompt) + settings.max_new_tokens for prompt in prompts]
    for batch in by_length(lengths, settings.batch_tokens):
        texts = _batch_answers(model, [prompts[i] for i in batch], settings.max_new_tokens)
        for i, text in zip(batch, texts, strict=True):
            found[i] = text
    return found


def _batch_answers(model: LoraModel, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    tokenizer = model.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.base.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
