"""Metrics that read probabilities off the model: held-out loss, and choice among four candidates."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from fedllm_bench.data.rows import SftRow, Task, Turn
from fedllm_bench.data.tokens import TokenRow, encode
from fedllm_bench.metrics.batches import Batches, Passes
from fedllm_bench.metrics.items import HeldoutItem, owners_of, unscored
from fedllm_bench.metrics.running import EvalSettings, by_length
from fedllm_bench.scores.score import MetricInfo, Score
from fedllm_bench.training.batches import collate
from fedllm_bench.training.loss import counted_nll
from fedllm_bench.training.model.lora_model import LoraModel


@dataclass(frozen=True)
class LossBatch:
    """Gives the summed loss of each row, in nats."""

    rows: Sequence[TokenRow]

    def __call__(self, model: LoraModel) -> list[float]:
        collated = collate(self.rows, model.device, packed=model.plan.packed)
        nll, places = counted_nll(model, collated)
        totals = torch.zeros(len(self.rows), dtype=torch.float64).index_add(0, places.cpu(), nll.double().cpu())
        return [float(total) for total in totals.tolist()]


def summed_nll(
    model: LoraModel,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    batches: Batches | None = None,
    owners: Sequence[str] = (),
) -> list[float]:
    """Summed next-token loss over the counted tokens of each row, in nats.

    `batches`: of the metric's settings. `owners` are the clients of the rows, where each may have its own adapter.
    """
    lengths = [len(row.ids) for row in rows]
    passes = Passes(
        plan=list(by_length(lengths, batch_tokens)),
        lengths=lengths,
        inputs=lambda: ["nll", _content(rows)],
        work=lambda batch: LossBatch([rows[i] for i in batch]),
        owners=owners,
        mixes=True,
    )
    return (batches or Batches()).run(model, passes)


def _content(rows: Sequence[TokenRow]) -> str:
    """Names rows by their tokens."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row.ids).to_bytes(8))
        digest.update(np.ascontiguousarray(row.ids, np.int32).tobytes())
        digest.update(np.ascontiguousarray(row.counted, np.bool_).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean loss of each held-out row over its counted tokens; a row weighs as many tokens as it has."""

    info = MetricInfo(
        name="heldout",
        version="1",
        unit="nats per token",
        higher_is_better=False,
        description="loss on held-out completions",
    )
    needs_probes = False
    task: ClassVar[Task] = "sft"

    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]:
        scored = [item for item in items if item.tokens is not None]
        rows, owners = [item.tokens for item in scored if item.tokens is not None], owners_of(scored)
        sums = iter(summed_nll(model, rows, settings.batch_tokens, settings.batches, owners))
        return [_loss_score(item, None if item.tokens is None else next(sums)) for item in items]


def _loss_score(item: HeldoutItem, total: float | None) -> Score:
    blank = unscored(item, "no token of the completion within the sequence length")
    if total is None or item.tokens is None:
        return blank
    count = item.tokens.num_counted
    return replace(blank, value=total / count, reason="", weight=float(count))


@dataclass(frozen=True)
class MiniChoice:
    """Whether the right answer is the most likely of four; guessing gives 0.25."""

    info = MetricInfo(
        name="mini_choice",
        version="1",
        unit="share",
        higher_is_better=True,
        description="right answer most likely among four candidates",
    )
    needs_probes = True
    task: ClassVar[Task] = "sft"

    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]:
        asked = [item for item in items if len(item.choices) > 1]
        rows = [answered_by(item, choice) for item in asked for choice in item.choices]
        encoded, owners = encode(rows, model.tokenizer, settings.template), [row.client_id for row in rows]
        sums = iter(summed_nll(model, encoded, settings.batch_tokens, settings.batches, owners))
        scores = []
        for item in asked:
            losses = [next(sums) for _ in item.choices]
            finite = all(map(math.isfinite, losses))  # else the model diverged: no answer, not a wrong one
            value = float(losses[0] < min(losses[1:])) if finite else math.nan
            evidence = {"nll": [round(loss, 4) for loss in losses]} if finite else {}
            scores.append(
                Score(item.row.row_id, value, evidence=evidence, cluster=item.row.client_id, group=item.group)
            )
        return scores


def answered_by(item: HeldoutItem, choice: str) -> SftRow:
    """The row with another last answer."""
    turn: Turn = {"role": "assistant", "content": choice}
    return replace(item.row, messages=(*item.row.messages[:-1], turn))
