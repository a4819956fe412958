"""Log-probabilities of the answers of a batch, in nats.

S sequences, P pairs, C counted tokens of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedllm_bench.data.pairs import PairRow
from fedllm_bench.training.batches import Batch
from fedllm_bench.training.loss import counted_nll
from fedllm_bench.training.model.lora_model import LoraModel


def log_p(model: LoraModel, batch: Batch) -> Tensor:
    """Summed log-probability of the counted tokens of each sequence, shape (S,)."""
    nll_C, sequences_C = counted_nll(model, batch)
    return nll_C.new_zeros(len(batch.spans)).index_add(0, sequences_C, -nll_C)


def pair_log_p(model: LoraModel, batch: Batch) -> Tensor:
    """That of the chosen and the rejected answer of each pair, shape (P, 2)."""
    return log_p(model, batch).view(-1, 2)


def log_ratios(model: LoraModel, batch: Batch, pairs: Sequence[PairRow]) -> Tensor:
    """log pi(y | x) - log pi_ref(y | x) of the chosen and the rejected answer of P pairs, shape (P, 2)."""
    policy_P2 = pair_log_p(model, batch)
    references = [pair.reference for pair in pairs]
    if None in references:
        raise ValueError("a pair has no log-probabilities of the reference; fill PairPart.reference first")
    return policy_P2 - policy_P2.new_tensor(references)
