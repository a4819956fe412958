"""Many prompts through one model: batches of like length, from which finished rows are taken while others go on.

A batch goes on in stretches of a few steps. After each the finished rows leave it, with their part of the KV cache.
When few rows are left and others wait, those left go back to the queue with their tokens so far, and later go on in a
full batch; reading their tokens again takes one pass. So one long answer does not hold up the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from fedllm_bench.evaluation.answering.kv_cache import as_argument, is_plain, read, select
from fedllm_bench.evaluation.answering.sampling import Sampler
from fedllm_bench.evaluation.answering.stop_strings import StopTexts, has_any
from fedllm_bench.evaluation.records import Finish
from fedllm_bench.metrics.running import end_tokens, folded_head
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.out_of_memory import free_memory, is_out_of_memory

log = logging.getLogger(__name__)
STRETCH = 64  # steps
LEFT = 4  # of a batch of n rows, n / LEFT or fewer go back to the queue
# Tokens of padding that a batch may hold. One more step costs as much as attention to some thousand tokens: about 6000
# of the mini model on one core (2.5 ms against 0.4 us), 26000 of a model of 7B on a large GPU (4.5 ms against 0.17 us).
PADDING = 6000
NOT_FINITE = "the model's logits are not finite"
NO_MEMORY = "there is no memory for this item alone"
# B rows of a batch, T tokens with their padding on the left


@dataclass(frozen=True)
class DecodingRow:
    """One answer in the making. `limit` is the most new tokens; `uniforms` has as many numbers, or none if greedy.

    `stops` are strings that end it; what is made may go on behind one. `tail` is (top_k, top_p) of a sampled one.
    """

    key: tuple[str, int]
    prompt: tuple[int, ...]
    limit: int
    temperature: float
    uniforms: npt.NDArray[np.float64]
    made: tuple[int, ...] = ()
    finish: Finish | None = None
    reason: str = ""
    stops: tuple[str, ...] = ()
    tail: tuple[int, float] = (0, 1.0)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.made)

    @property
    def longest(self) -> int:
        """Tokens when it has ended, at most."""
        return len(self.prompt) + self.limit

    def with_tokens(self, tokens: Sequence[int], stop_ids: frozenset[int], bad: bool) -> DecodingRow:
        """The row after more tokens, of which those behind its end are dropped."""
        if bad:
            return replace(self, made=(), finish="failed", reason=NOT_FINITE)
        tokens = tokens[: self.limit - len(self.made)]
        end = next((place for place, token in enumerate(tokens) if token in stop_ids), None)
        if end is not None:
            return replace(self, made=(*self.made, *tokens[: end + 1]), finish="stop")
        made = (*self.made, *tokens)
        return replace(self, made=made, finish="length" if len(made) == self.limit else None)


@dataclass
class Queue:
    """The rows that wait; whoever reads the finished ones may add others at any time."""

    waiting: list[DecodingRow] = field(default_factory=list)

    def take(self, batch_tokens: int, most: int | None = None) -> list[DecodingRow]:
        """The shortest rows, of like length, whose tokens at their longest fit `batch_tokens`; at least one row.

        At most so many, where `most` is given.
        """
        self.waiting.sort(key=lambda row: (row.length, row.key))
        taken, filled, longest = 0, 0, 0
        for row in self.waiting:
            longest = max(longest, row.longest)
            padding = row.length * taken - filled
            if taken and (padding > PADDING or longest * (taken + 1) > batch_tokens or taken == most):
                break
            taken, filled = taken + 1, filled + row.length
        batch, self.waiting = self.waiting[:taken], self.waiting[taken:]
        return batch


@dataclass(frozen=True)
class DecodingBatch:
    """Rows side by side: `ids` and `mask` of shape (B, T); `cache` holds all but the last token, or is None."""

    rows: list[DecodingRow]
    ids: Tensor
    mask: Tensor
    cache: Any


class RowsEnded(StoppingCriteria):  # type: ignore[misc]
    """A row ends at its limit; all end when half of them have, so that the others can go on without them."""

    def __init__(self, left: Tensor, start: int, stop_ids: Tensor, sampler: Sampler, texts: StopTexts) -> None:
        self.left, self.start, self.stop_ids, self.sampler, self.texts = left, start, stop_ids, sampler, texts
        self.ended = torch.zeros_like(left, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.ended |= (input_ids.shape[1] - self.start >= self.left) | torch.isin(input_ids[:, -1], self.stop_ids)
        self.ended |= self.sampler.bad
        if self.texts.rows:
            self.ended |= self.texts(input_ids[:, self.start :])
        enough = 2 * self.ended.sum() >= len(self.ended)
        return self.ended | enough


def decode(
    model: LoraModel, queue: Queue, batch_tokens: int, stop_ids: frozenset[int] | None = None
) -> Iterator[list[DecodingRow]]:
    """Rows as they end, a few at a time (none, now and then), until the queue is empty.

    `stop_ids` end an answer, by default those of the model itself (:func:`end_tokens`).
    Where memory runs out, batches are made smaller. A row that does not fit alone, or has logits that are not finite,
    ends as "failed". Raises what the model raises.
    """
    stop_ids = end_tokens(model) if stop_ids is None else stop_ids
    while queue.waiting:
        rows = queue.take(batch_tokens)
        size = len(rows)
        for after in stretches(model, rows, stop_ids):
            if after is None:
                batch_tokens = smaller(rows)
                yield put_back(rows, queue)
                break
            finished, rows = after
            yield finished
            if queue.waiting and LEFT * len(rows) <= size:
                queue.waiting += rows
                break


def stretches(
    model: LoraModel, rows: list[DecodingRow], stop_ids: frozenset[int]
) -> Iterator[tuple[list[DecodingRow], list[DecodingRow]] | None]:
    """The rows of a batch that ended in each stretch, and those that go on, until all have ended.

    None where there was no memory for the rows that were to go on, and then nothing more.
    """
    batch: DecodingBatch | None = None
    while rows:
        after = _tried(model, rows, batch, stop_ids)
        if after is None:
            batch = None
            yield None
            return
        batch, finished = after
        rows = batch.rows
        yield finished, rows


def _tried(
    model: LoraModel, rows: list[DecodingRow], batch: DecodingBatch | None, stop_ids: frozenset[int]
) -> tuple[DecodingBatch, list[DecodingRow]] | None:
    """One stretch of `batch`, or the first of `rows`; None where there was no memory for it."""
    try:
        return _stretch(model, batch or _begin(model, rows), stop_ids)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory()  # here, where no frame of the failed stretch holds its tensors any more
    return None


def smaller(rows: Sequence[DecodingRow]) -> int:
    """The tokens of half of these rows."""
    tokens = max(row.longest for row in rows) * max(1, len(rows) // 2)
    log.warning("out of memory with %d answers at once; from here on half as many", len(rows))
    return tokens


def put_back(rows: list[DecodingRow], queue: Queue) -> list[DecodingRow]:
    """Rows that did not fit wait for a smaller batch; one that was alone has failed."""
    if len(rows) == 1:
        return [replace(rows[0], made=(), finish="failed", reason=NO_MEMORY)]
    queue.waiting += rows
    return []


def _begin(model: LoraModel, rows: list[DecodingRow]) -> DecodingBatch:
    width = max(row.length for row in rows)
    pad, device = _padding(model), model.device
    texts = [[*row.prompt, *row.made] for row in rows]
    ids = torch.tensor([[pad] * (width - len(text)) + text for text in texts], device=device)
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)
    return DecodingBatch(rows, ids, mask, read(model.base, texts, device) if is_plain(model.base) else None)


def _padding(model: LoraModel) -> int:
    tokenizer = model.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _stretch(
    model: LoraModel, batch: DecodingBatch, stop_ids: frozenset[int]
) -> tuple[DecodingBatch, list[DecodingRow]]:
    """The batch after some steps, without the rows that ended in them, and those rows."""
    sampler = Sampler(
        [row.temperature for row in batch.rows],
        [row.uniforms[len(row.made) :] for row in batch.rows],
        [row.tail for row in batch.rows],
    )
    out = _generate(model, batch, sampler.to(model.device), stop_ids)
    width = batch.ids.shape[1]
    new, bad = out[:, width:].tolist(), sampler.bad.tolist()
    rows = [row.with_tokens(tokens, stop_ids, is_bad) for row, tokens, is_bad in zip(batch.rows, new, bad, strict=True)]
    rows = [_ended_by_text(model.tokenizer, row) for row in rows]
    going = [place for place, row in enumerate(rows) if row.finish is None]
    finished = [row for row in rows if row.finish is not None]
    if not going:
        return DecodingBatch([], out, batch.mask, None), finished
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(rows), out.shape[1] - width)], dim=1)
    if finished:
        out, mask = out[going], mask[going]
        if batch.cache is not None:
            select(batch.cache, going, model.device)
    return DecodingBatch([rows[place] for place in going], out, mask, batch.cache), finished


def _ended_by_text(tokenizer: Any, row: DecodingRow) -> DecodingRow:
    if row.finish is None and has_any(tokenizer, row.made, row.stops):
        return replace(row, finish="stop")
    return row


def _generate(model: LoraModel, batch: DecodingBatch, sampler: Sampler, stop_ids: frozenset[int]) -> Tensor:
    """`batch.ids` with the tokens of at most STRETCH steps behind it; without a cache to go on from, of all steps."""
    left = [row.limit - len(row.made) for row in batch.rows]
    ends = torch.tensor(sorted(stop_ids), device=model.device)
    texts = StopTexts(model.tokenizer, [row.stops for row in batch.rows], [row.made for row in batch.rows])
    criteria = RowsEnded(torch.tensor(left, device=model.device), batch.ids.shape[1], ends, sampler, texts)
    with folded_head(model.base):
        out: Tensor = model.base.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            max_new_tokens=max(left) if batch.cache is None else min(STRETCH, max(left)),
            do_sample=False,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([criteria]),
            pad_token_id=_padding(model),
            eos_token_id=sorted(stop_ids),
            **as_argument(model.base, batch.cache),
        )
    return out
