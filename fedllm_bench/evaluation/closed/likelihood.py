"""How likely a model holds continuations: each distinct input once, only the logits that are asked for.

Requests that have the same input share a row, as one-token choices behind one question do: so does `HFLM` with its
`logits_cache`. Rows that begin alike share the computation of their beginning (:mod:`shared_prefix`). Only the hidden
states of continuations go through the head.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm_bench.evaluation.answering.kv_cache import is_plain
from fedllm_bench.evaluation.closed.families import GPU_PASS, PASS, families
from fedllm_bench.evaluation.closed.shared_prefix import beginning, hidden_behind
from fedllm_bench.evaluation.closed.texts import AskedPair
from fedllm_bench.metrics.running import by_length
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.out_of_memory import free_memory, is_out_of_memory

log = logging.getLogger(__name__)
CPU_TOKENS, GPU_TOKENS = 4096, 16384  # of rows, in one pass
LOGITS = 2**25  # numbers at once
NOTHING = (math.nan, False)  # of a continuation that has no tokens, or more than the model has positions for
# B rows of a batch, N places of theirs whose logits are asked for, M tokens whose probability is asked for, V of the
# vocabulary, H numbers of a hidden state

Answer = tuple[float, bool]  # the log-likelihood in nats, and whether greedy decoding would give the continuation


@dataclass(frozen=True)
class ScoredRow:
    """An input, and the continuations whose last token but one ends it; they lie at its end. No input ends in its
    targets' last token, which nothing is read from."""

    ids: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> int:
        """The first place whose logits are asked for."""
        return len(self.ids) - max(map(len, self.targets))


def as_rows(pairs: Sequence[AskedPair], longest: int) -> tuple[list[ScoredRow], list[tuple[int, int] | None]]:
    """The rows of all pairs, and where in them each pair is: its row, and its place among the row's targets.

    None for a pair that cannot be scored. Inputs are cut on the left to `longest` tokens, as `HFLM` cuts them.
    """
    targets: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
    places: list[tuple[tuple[int, ...], int] | None] = []
    for pair in pairs:
        if not 0 < len(pair.continuation) <= longest:
            places.append(None)
            continue
        ids = (*pair.context, *pair.continuation)[-(longest + 1) :][:-1]
        of_row = targets.setdefault(ids, {})
        places.append((ids, of_row.setdefault(pair.continuation, len(of_row))))
    numbers = {ids: number for number, ids in enumerate(targets)}
    rows = [ScoredRow(ids, tuple(found)) for ids, found in targets.items()]
    return rows, [None if place is None else (numbers[place[0]], place[1]) for place in places]


def scored(
    model: LoraModel, rows: Sequence[ScoredRow], batch_tokens: int, is_kept: Callable[[int], bool] = lambda _: False
) -> Iterator[list[tuple[int, list[Answer]]]]:
    """Rows as they are done, a batch at a time: the number of each, and an answer for each of its targets.

    `batch_tokens` bounds what a batch and its common beginning have together. Batches are those of all rows, and one
    whose rows are all kept from an earlier session is left out: so the answers are the same to the last bit, however
    often the work was interrupted. Answers of a row that does not fit the memory alone, or has logits that are not
    finite, are not numbers.
    """
    on_cpu = model.device.type == "cpu"
    most = min(batch_tokens, CPU_TOKENS if on_cpu else GPU_TOKENS)
    limits = [row.first if is_plain(model.base) else 0 for row in rows]
    for family in families([row.ids for row in rows], limits, PASS if on_cpu else GPU_PASS):
        lengths = [len(rows[row].ids) - family.shared for row in family.rows]
        held = 1 + family.shared // 4 if family.shared else 0  # its keys and values are copied for each row
        batches = [[family.rows[place] for place in batch] for batch in by_length([n + held for n in lengths], most)]
        left = [batch for batch in batches if not all(map(is_kept, batch))]
        cache = beginning(model, rows[family.rows[0]].ids[: family.shared]) if family.shared and left else None
        for batch in left:
            yield list(zip(batch, _tried(model, cache, family.shared, [rows[row] for row in batch]), strict=True))


def _tried(model: LoraModel, cache: object, shared: int, rows: Sequence[ScoredRow]) -> list[list[Answer]]:
    """A batch, in halves where there is no memory for it."""
    try:
        return _batch(model, cache, shared, rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory()  # here, where no frame of the failed pass holds its tensors any more
    if len(rows) == 1:
        return [[NOTHING for _ in rows[0].targets]]
    log.warning("out of memory with %d rows at once; trying half as many", len(rows))
    half = len(rows) // 2
    return _tried(model, cache, shared, rows[:half]) + _tried(model, cache, shared, rows[half:])


def _batch(model: LoraModel, cache: object, shared: int, rows: Sequence[ScoredRow]) -> list[list[Answer]]:
    width = max(len(row.ids) for row in rows) - shared
    ids = [[*row.ids[shared:], *[0] * (width + shared - len(row.ids))] for row in rows]
    states = hidden_behind(model, cache, torch.tensor(ids, device=model.device))
    places = [(number, place - shared) for number, row in enumerate(rows) for place in range(row.first, len(row.ids))]
    of_row, of_place = torch.tensor(places, device=states.device).T
    return _read_off(model, states[of_row, of_place], rows)


def _read_off(model: LoraModel, states_NH: Tensor, rows: Sequence[ScoredRow]) -> list[list[Answer]]:
    """The answers of rows, from the hidden states of their places, one row's behind another's."""
    sources: list[int] = []
    tokens: list[int] = []
    start = 0
    for row in rows:
        end = start + len(row.ids) - row.first
        for target in row.targets:
            sources += range(end - len(target), end)
            tokens += target
        start = end
    logs, best = _token_scores(model, states_NH, sources, tokens)
    answers, at = [], 0
    for row in rows:
        found = []
        for target in row.targets:
            part = slice(at, at + len(target))
            total = math.fsum(logs[part])
            found.append((total, all(best[part])) if math.isfinite(total) else NOTHING)
            at += len(target)
        answers.append(found)
    return answers


def _token_scores(
    model: LoraModel, states_NH: Tensor, sources: Sequence[int], tokens: Sequence[int]
) -> tuple[list[float], list[bool]]:
    """The log-probability of each of M tokens at its place among N, and whether it is the most likely one there."""
    size = max(1, LOGITS // model.vocabulary)
    source_M, token_M = torch.tensor(sources), torch.tensor(tokens)
    logs_M, best_M = torch.zeros(len(tokens), dtype=torch.float64), torch.zeros(len(tokens), dtype=torch.bool)
    for start in range(0, len(states_NH), size):
        logits_NV = model.logits(states_NH[start : start + size])
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        here = (source_M >= start) & (source_M < start + size)
        place, token = (source_M[here] - start).to(logits_NV.device), token_M[here].to(logits_NV.device)
        total_N, likeliest_N = torch.logsumexp(logits_NV, dim=-1), logits_NV.argmax(dim=-1)
        logs_M[here] = (logits_NV[place, token] - total_N[place]).double().cpu()
        best_M[here] = (likeliest_N[place] == token).cpu()
    return logs_M.tolist(), best_M.tolist()
