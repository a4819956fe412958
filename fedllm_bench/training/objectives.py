"""What a client minimises: the next-token loss of its completions (sft), or the loss of its preferences (dpo).

K clients in the pass, R rows of all of them, S sequences: R, or of each of R pairs the chosen, then the rejected one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import PairRow
from fedllm_bench.training.batches import Batch
from fedllm_bench.training.loss import client_losses, counted_nll
from fedllm_bench.training.model.lora_model import LoraModel


@dataclass(frozen=True)
class Rows:
    """The rows of a pass, and whose they are: `owners_R` (R,); `num_terms_K` (K,) are the terms of the whole step."""

    rows: Sequence[Any]
    owners_R: Tensor
    num_terms_K: Tensor


Losses = Callable[[LoraModel, Batch, Rows, Local], Tensor]  # summed losses of clients over their terms, (K,)


@dataclass(frozen=True)
class Objective:
    """`losses` of the passes of a step add up to each client's mean over the step.

    `dropout`: whether LoRA's dropout is drawn. Under dpo it is not, as in TRL's DPOTrainer: the policy would differ
    from its reference by the masks alone.
    """

    losses: Losses
    dropout: bool


def sft_losses(model: LoraModel, batch: Batch, rows: Rows, local: Local) -> Tensor:
    """Next-token loss in nats per counted token of each client, shape (K,)."""
    return client_losses(model, batch, rows.owners_R, rows.num_terms_K)


def dpo_losses(model: LoraModel, batch: Batch, rows: Rows, local: Local) -> Tensor:
    """Loss of each client's preferences per pair, shape (K,); `local.dpo_loss` says which.

    Raises a :class:`ValueError` for a pair without the reference's log-probabilities.
    """
    ratios_R2 = log_ratios(model, batch, rows.rows)
    lengths = [(pair.chosen.num_counted, pair.rejected.num_counted) for pair in rows.rows]
    losses_R = PAIR_LOSSES[local.dpo_loss](ratios_R2, ratios_R2.new_tensor(lengths), local.dpo_beta)
    sums = losses_R.new_zeros(len(rows.num_terms_K)).index_add(0, rows.owners_R, losses_R)
    return sums / rows.num_terms_K.clamp(min=1)


def log_ratios(model: LoraModel, batch: Batch, pairs: Sequence[PairRow]) -> Tensor:
    """log pi(y | x) - log pi_ref(y | x) of the chosen and the rejected answer of P pairs, shape (P, 2), in nats."""
    nll_C, sequences_C = counted_nll(model, batch)
    policy_S = nll_C.new_zeros(len(batch.ids)).index_add(0, sequences_C, -nll_C)
    references = [pair.reference for pair in pairs]
    if None in references:
        raise ValueError("a pair has no log-probabilities of the reference; fill PairPart.reference first")
    return policy_S.view(-1, 2) - policy_S.new_tensor(references)


def sigmoid_losses(ratios_P2: Tensor, lengths_P2: Tensor, beta: float) -> Tensor:
    """DPO. Rafailov et al., 2023 (arXiv:2305.18290), Equation 7, shape (P,):

    -log sigmoid(beta (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)))
    """
    return -F.logsigmoid(beta * (ratios_P2[:, 0] - ratios_P2[:, 1]))


def ipo_losses(ratios_P2: Tensor, lengths_P2: Tensor, beta: float) -> Tensor:
    """IPO. Azar et al., 2023 (arXiv:2310.12036), Equation 17 with tau = beta, shape (P,):

    (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l) - 1 / (2 tau))^2

    Log-ratios are means over the tokens of an answer, as in TRL, which has it from the authors; the paper writes sums.
    """
    means_P2 = ratios_P2 / lengths_P2
    return (means_P2[:, 0] - means_P2[:, 1] - 1 / (2 * beta)) ** 2


PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"sigmoid": sigmoid_losses, "ipo": ipo_losses}
OBJECTIVES: dict[str, Objective] = {
    "sft": Objective(sft_losses, dropout=True),
    "dpo": Objective(dpo_losses, dropout=False),
}
