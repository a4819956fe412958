"""Random preference pairs, for the tests of DPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from tiny import CPU, VOCABULARY
from torch import Tensor

from fedllm_bench.data.pairs import PairPart, PairRow
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


def plain_loss(model: Any, pairs: Sequence[PairRow], kind: str, beta: float) -> Tensor:
    """The mean loss of pairs, one after the other, as the papers write it."""
    total = 0.0
    for pair in pairs:
        assert pair.reference is not None
        win, lose = (plain_logp(model, row) - ref for row, ref in zip(pair.sequences, pair.reference, strict=True))
        if kind == "sigmoid":
            total = total - (beta * (win - lose)).sigmoid().log()
        else:
            total = total + (win / pair.chosen.num_counted - lose / pair.rejected.num_counted - 1 / (2 * beta)) ** 2
    return total / len(pairs)
