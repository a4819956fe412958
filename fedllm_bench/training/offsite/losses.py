"""How far a student is from the whole model on the same rows: what an alignment lowers.

T and S are the hidden states of the two at the emulator's output, at all tokens, and P and Q their next-token
distributions at the counted ones. With the weights w of the config:

    FedOT    w_lm lm(S) + w_kd mean(((T - S) / rms(T))^2)           FS-LLM's, after Offsite-Tuning (arXiv:2302.04870)
    FedBiOT  w_lm lm(S) + w_kd mean((T - S)^2) + w_kl mean KL(P || Q)               after FedBiOT (arXiv:2406.17706)

lm is the mean loss of the counted tokens. N tokens of all rows, H hidden size, C counted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.batches import NOT_COUNTED, Batch, collate
from fedllm_bench.training.loss import chunked_nll
from fedllm_bench.training.model.lora_model import LoraModel


@dataclass(frozen=True)
class StatesSeen:
    """What one of the two models makes of a batch: states at the emulator's output (N, H), and last ones (C, H)."""

    middle_NH: Tensor
    counted_CH: Tensor


def alignment_loss(whole: LoraModel, student: LoraModel, rows: Sequence[TokenRow], offsite: Offsite) -> Tensor:
    """The loss of the student on the rows; `whole` has the same adapter, and no gradient goes through it.

    Raises a :class:`ValueError` for a model without a student.
    """
    if whole.student is None:
        raise ValueError("a model without a student has nothing to align")
    teacher_end, student_end = whole.student.ends
    batch = collate(rows, whole.device, packed=student.plan.packed and whole.plan.packed)
    tokens_N = _real_tokens(batch, rows)
    targets_N = batch.targets.flatten()
    counted_C = torch.nonzero(targets_N != NOT_COUNTED).squeeze(1)
    with torch.no_grad():
        taught = _seen(whole, teacher_end, batch, tokens_N, counted_C)
    ours = _seen(student, student_end, batch, tokens_N, counted_C)
    gap_NH = ours.middle_NH - taught.middle_NH
    if not offsite.realigns:
        gap_NH = gap_NH / taught.middle_NH.square().mean().sqrt()
    loss = offsite.kd_weight * gap_NH.square().mean()
    if offsite.lm_weight:
        loss = loss + offsite.lm_weight * chunked_nll(student, ours.counted_CH, targets_N[counted_C]).mean()
    if offsite.realigns and offsite.kl_weight:
        loss = loss + offsite.kl_weight * _divergence(whole, student, taught.counted_CH, ours.counted_CH)
    return loss


def _divergence(whole: LoraModel, student: LoraModel, taught_CH: Tensor, ours_CH: Tensor) -> Tensor:
    """Mean KL(P || Q) in nats over the tokens."""
    with torch.no_grad():
        taught_CV = torch.log_softmax(whole.logits(taught_CH).float(), -1)
    ours_CV = torch.log_softmax(student.logits(ours_CH).float(), -1)
    return F.kl_div(ours_CV, taught_CV, log_target=True, reduction="sum") / max(len(ours_CH), 1)


def _seen(model: LoraModel, end: nn.Module, batch: Batch, tokens_N: Tensor, counted_C: Tensor) -> StatesSeen:
    with _noting(end) as found:
        last_NH = model.hidden(batch.ids, batch.packing).flatten(0, 1)
    middle_NH = found[-1].flatten(0, -2).float()
    # a token is predicted from the state of the one before it
    return StatesSeen(middle_NH[tokens_N], last_NH[counted_C - 1])


@contextmanager
def _noting(end: nn.Module) -> Iterator[list[Tensor]]:
    """Inside the block the outputs of a decoder layer are noted; some architectures give more than states."""
    found: list[Tensor] = []

    def note(_: nn.Module, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    hook = end.register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def _real_tokens(batch: Batch, rows: Sequence[TokenRow]) -> Tensor:
    """Places of the tokens that are no padding among all of the batch."""
    width = batch.ids.shape[1]
    if batch.packing is not None:
        return torch.arange(width, device=batch.ids.device)
    places = [place * width + token for place, row in enumerate(rows) for token in range(len(row.ids))]
    return torch.tensor(places, device=batch.ids.device)
