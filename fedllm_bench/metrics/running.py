"""How metrics run a model: greedy answers, in batches of rows of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch

from fedllm_bench.config.config_robust import Attack
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.rows import Turn
from fedllm_bench.data.tokens import encode_prompts
from fedllm_bench.metrics.batches import Batches, Passes
from fedllm_bench.training.model.base import named_ends
from fedllm_bench.training.model.lora_model import LoraModel

# A batch of answers has room for so many padded tokens at least, whatever `batch_tokens` bounds for losses: each step
# reads all weights, for one row as for many.
ANSWER_TOKENS = 4096


@dataclass(frozen=True)
class GreedyAnswer:
    """What a model said, without surrounding spaces. `ended`: by itself, not because max_new_tokens were full."""

    text: str
    ended: bool


def answers(
    model: LoraModel, conversations: Sequence[Sequence[Turn]], settings: EvalSettings, owners: Sequence[str] = ()
) -> list[str]:
    """The texts of :func:`greedy_answers`."""
    return [answer.text for answer in greedy_answers(model, conversations, settings, owners)]


def greedy_answers(
    model: LoraModel, conversations: Sequence[Sequence[Turn]], settings: EvalSettings, owners: Sequence[str] = ()
) -> list[GreedyAnswer]:
    """One greedy answer for each conversation that ends with the user's turn, of at most `max_new_tokens` tokens.

    `owners` are the clients who ask, where each may have its own adapter.
    """
    prompts = encode_prompts(conversations, model.tokenizer, settings.template)
    ends = end_tokens(model, settings.template)
    lengths = [len(prompt) + settings.max_new_tokens for prompt in prompts]
    passes = Passes(
        plan=list(by_length(lengths, max(settings.batch_tokens, ANSWER_TOKENS))),
        lengths=lengths,
        inputs=lambda: ["answers", prompts, settings.max_new_tokens, sorted(ends)],
        work=lambda batch: GreedyBatch([prompts[i] for i in batch], settings.max_new_tokens, ends),
        owners=owners,
    )
    return [GreedyAnswer(text, ended) for text, ended in settings.batches.run(model, passes)]


def end_tokens(model: LoraModel, template: str | None = None) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's, those that the model names for generation, and the template's mark.

    The mark is what the template writes behind an answer, so what a model was trained to end with.
    """
    marks = frozenset() if template is None else ChatEncoder(model.tokenizer, template).ends
    return marks | {model.tokenizer.eos_token_id, *named_ends(model.base)}


@dataclass(frozen=True)
class GreedyBatch:
    """Gives the text of each answer, and whether it ended by itself."""

    prompts: Sequence[list[int]]
    max_new_tokens: int
    ends: frozenset[int]

    def __call__(self, model: LoraModel) -> list[tuple[str, bool]]:
        return _batch_answers(model, self.prompts, self.max_new_tokens, self.ends)


def _batch_answers(
    model: LoraModel, prompts: Sequence[list[int]], max_new_tokens: int, ends: frozenset[int]
) -> list[tuple[str, bool]]:
    tokenizer = model.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with folded_head(model.base):
        out = model.base.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=sorted(ends),
        )
    new = out[:, width:].tolist()
    made = [list(takewhile(lambda token: token not in ends, row)) for row in new]
    texts: list[str] = tokenizer.batch_decode(made, skip_special_tokens=True)
    return [(text.strip(), len(kept) < len(row)) for text, kept, row in zip(texts, made, new, strict=True)]


@contextmanager
def folded_head(base: Any) -> Iterator[None]:
    """Inside, the head gets the last places of a batch side by side.

    As a slice of all places, which generation gives it, they cannot be folded into one matrix, and torch copies the
    whole head for each row of the batch: two thirds of the time of 64 tokens with a head of 262,144 words.
    """
    hook = base.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


def by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of at most `batch_tokens` padded tokens; a longer row is a batch of its own."""
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        longest = max(longest, lengths[index])
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """`template` is the Jinja source that the run was trained with; `batch_tokens` bounds a batch.

    `dpo_beta` scales rewards of preference pairs. `attack` has the words that an attack is looked for with. `batches`
    says how passes through the model are shown and kept.
    """

    template: str
    batch_tokens: int
    max_new_tokens: int
    dpo_beta: float = 0.1
    attack: Attack = field(default_factory=Attack)
    batches: Batches = field(default_factory=Batches)
