"""Random preference pairs, for the tests of DPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tiny import CPU, VOCABULARY
from torch import Tensor

from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnswerRow, PairPart, PairRow
from fedllm_bench.data.tokens import TokenPart, TokenRow
from fedllm_bench.training.batches import collate


def random_pairs(seed: int, num_pairs: int) -> PairPart:
    """Prompts of 2 to 8 tokens, each with two answers of 1 to 7, and random values of the reference."""
    rng = np.random.default_rng(seed)
    pieces, counted = [], []
    for _ in range(num_pairs):
        prompt = rng.integers(4, VOCABULARY, rng.integers(2, 9))
        for length in rng.integers(1, 8, 2):
            pieces.append(np.concatenate([prompt, rng.integers(4, VOCABULARY, length)]).astype(np.int32))
            counted.append(np.arange(len(pieces[-1])) >= len(prompt))
    sequences = TokenPart(
        ids=np.concatenate(pieces),
        counted=np.concatenate(counted),
        starts=np.cumsum([0, *map(len, pieces)]),
        rows=np.repeat(np.arange(num_pairs), 2),
        num_cut=0,
        num_skipped=0,
    )
    return PairPart(sequences, reference=rng.normal(-20, 3, (num_pairs, 2)))


def referenced(part: PairPart, model: Any) -> PairPart:
    """The same pairs with the log-probabilities of `model` itself, a model of transformers."""
    values = [[plain_logp(model, row).item() for row in part[i].sequences] for i in range(len(part))]
    return replace(part, reference=np.array(values))


def plain_logp(model: Any, row: TokenRow) -> Tensor:
    """Summed log-probability of the counted tokens of one row, from the logits of the whole model."""
    batch = collate([row], CPU)
    logits = model(input_ids=batch.ids).logits[0, :-1]
    return -F.cross_entropy(logits, batch.targets[0, 1:], ignore_index=-100, reduction="sum")


def plain_loss(model: Any, pairs: Sequence[PairRow], kind: str, beta: float, gamma: float = 0.5) -> Tensor:
    """The mean loss of pairs, one after the other, as the papers write it."""
    if kind == "orpo":
        return plain_orpo_loss(model, pairs, beta)
    total = 0.0
    for pair in pairs:
        if kind == "simpo":
            win, lose = (plain_logp(model, row) / row.num_counted for row in pair.sequences)
            total = total - (beta * win - beta * lose - gamma).sigmoid().log()
            continue
        assert pair.reference is not None
        win, lose = (plain_logp(model, row) - ref for row, ref in zip(pair.sequences, pair.reference, strict=True))
        if kind == "sigmoid":
            total = total - (beta * (win - lose)).sigmoid().log()
        else:
            total = total + (win / pair.chosen.num_counted - lose / pair.rejected.num_counted - 1 / (2 * beta)) ** 2
    return total / len(pairs)


def plain_orpo_loss(model: Any, pairs: Sequence[PairRow], weight: float) -> Tensor:
    """ORPO: likelihood of all tokens of the chosen sequences, and the odds of the answers."""
    odds, nll, tokens = 0.0, 0.0, 0
    for pair in pairs:
        p_win, p_lose = ((plain_logp(model, row) / row.num_counted).exp() for row in pair.sequences)
        odds = odds - torch.log(torch.sigmoid(torch.log(p_win / (1 - p_win)) - torch.log(p_lose / (1 - p_lose))))
        whole = replace(pair.chosen, counted=np.ones_like(pair.chosen.counted))
        nll, tokens = nll - plain_logp(model, whole), tokens + len(whole.ids) - 1
    return nll / tokens + weight * odds / len(pairs)


def plain_kto_step(model: Any, base: Any, micros: Sequence[Sequence[AnswerRow]], local: Local) -> Tensor:
    """The mean loss of a step of KTO, answer by answer. `base` is the reference."""
    losses = []
    for micro in micros:
        drifts = []
        for place, row in enumerate(micro):
            before = micro[place - 1].answer
            cut, start = int(row.answer.counted.argmax()), int(before.counted.argmax())
            ids = np.concatenate([row.answer.ids[:cut], before.ids[start:]])[: local.sequence_length]
            other = TokenRow(ids, np.arange(len(ids)) >= cut)
            drifts.append((plain_logp(model, other) - plain_logp(base, other)).item())
        z0 = max(0.0, sum(drifts) / len(drifts))
        for row in micro:
            r = plain_logp(model, row.answer) - row.reference
            if row.is_desirable:
                losses.append(local.kto_desirable * (1 - torch.sigmoid(local.dpo_beta * (r - z0))))
            else:
                losses.append(local.kto_undesirable * (1 - torch.sigmoid(local.dpo_beta * (z0 - r))))
    return torch.stack(losses).mean()
