"""What a client minimises: the next-token loss of its completions (sft), or a loss of its preferences: of pairs of
answers (dpo), or of answers that its user called good or bad (kto).

K clients in the pass, R rows of all of them, S sequences: R, or of each of R pairs the chosen, then the rejected one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Local
from fedllm_bench.training.batches import Batch
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.losses.kto import kto_losses, with_drifts
from fedllm_bench.training.losses.pair_losses import PAIR_LOSSES, as_they_are
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import Pass


@dataclass(frozen=True)
class Rows:
    """The rows of a pass, and whose they are: `owners_R` (R,); `num_terms_K` (K,) are the terms of the whole step."""

    rows: Sequence[Any]
    owners_R: Tensor
    num_terms_K: Tensor


Losses = Callable[[LoraModel, Batch, Rows, Local], Tensor]  # summed losses of clients over their terms, (K,)
Adapters = Callable[[Sequence[int]], Tree]  # the packed adapters of clients, by their places in the block


@dataclass(frozen=True)
class Objective:
    """`losses` of the passes of a step add up to each client's mean over the step.

    `dropout`: whether LoRA's dropout is drawn. Of preferences it is not, as in TRL's trainers: the policy would differ
    from its reference by the masks alone.
    `prepared` gives the rows of a step what they must know of their client's whole step, before its passes run.
    """

    losses: Losses
    dropout: bool
    prepared: Callable[[LoraModel, list[Pass], Adapters, Local], list[Pass]] = as_they_are


def sft_losses(model: LoraModel, batch: Batch, rows: Rows, local: Local) -> Tensor:
    """Next-token loss in nats per counted token of each client, shape (K,)."""
    return client_losses(model, batch, rows.owners_R, rows.num_terms_K)


def dpo_losses(model: LoraModel, batch: Batch, rows: Rows, local: Local) -> Tensor:
    """Loss of each client's preferences per pair, shape (K,); `local.dpo_loss` says which.

    Raises a :class:`ValueError` for a pair without the reference's log-probabilities, where the loss needs them.
    """
    return _of_clients(PAIR_LOSSES[local.dpo_loss].losses(model, batch, rows.rows, local), rows)


def prepared_pairs(model: LoraModel, passes: list[Pass], adapters: Adapters, local: Local) -> list[Pass]:
    return PAIR_LOSSES[local.dpo_loss].prepared(model, passes, adapters, local)


def answer_losses(model: LoraModel, batch: Batch, rows: Rows, local: Local) -> Tensor:
    """Loss of each client per answer, shape (K,)."""
    return _of_clients(kto_losses(model, batch, rows.rows, local), rows)


def _of_clients(losses_R: Tensor, rows: Rows) -> Tensor:
    sums = losses_R.new_zeros(len(rows.num_terms_K)).index_add(0, rows.owners_R, losses_R)
    return sums / rows.num_terms_K.clamp(min=1)


def needs_reference(local: Local) -> bool:
    """Whether training needs the log-probabilities of its rows under the base."""
    return local.loss == "kto" or (local.loss == "dpo" and PAIR_LOSSES[local.dpo_loss].needs_reference)


OBJECTIVES: dict[str, Objective] = {
    "sft": Objective(sft_losses, dropout=True),
    "dpo": Objective(dpo_losses, dropout=False, prepared=prepared_pairs),
    "kto": Objective(answer_losses, dropout=False, prepared=with_drifts),
}
