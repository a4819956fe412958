"""Losses of clients, counted at the completion's tokens only.

K clients in the pass, S sequences of all of them, T tokens of a sequence, C counted tokens of the batch, H hidden
size, V tokens of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from fedllm_bench.training.batches import NOT_COUNTED, Batch
from fedllm_bench.training.model.lora_model import LoraModel

# Logits that may live at a time: 64 MB in float32, and a few times that for their gradient. Chunks of 2**24 take as
# long as all at once; of 2**20, 1.7 times as long (2 cores, 2,048 tokens, H = 512, V = 32,000).
LOGITS_AT_ONCE = 2**24
# But never fewer tokens than this at once: the head of a large vocabulary is read from memory for every chunk.
LEAST_TOKENS = 256


def counted_nll(model: LoraModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Next-token loss in nats at each counted token, shape (C,), and the sequence of each, shape (C,).

    The head is applied at these tokens only: they are a fifth of all, and its logits the largest tensor. Losses lie
    where the batch does, wherever the last layer and the head lie.
    """
    hidden_NH = model.hidden(batch.ids, batch.packing).flatten(0, 1)
    targets_N = batch.targets.flatten()
    places_C = torch.nonzero(targets_N != NOT_COUNTED).squeeze(1)  # never the first token of a sequence
    counted_CH, targets_C = hidden_NH.index_select(0, (places_C - 1).to(hidden_NH.device)), targets_N[places_C]
    return chunked_nll(model, counted_CH, targets_C).to(batch.ids.device), batch.sequences_of(places_C)


def tokens_at_once(vocabulary: int) -> int:
    """The most counted tokens whose logits live at a time."""
    return max(LEAST_TOKENS, LOGITS_AT_ONCE // vocabulary)


def head_nll(model: LoraModel, hidden_CH: Tensor, targets_C: Tensor) -> Tensor:
    """Loss of each target given its hidden state, shape (C,), in nats; float32 at least, and where the head lies."""
    logits_CV = model.logits(hidden_CH)
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    return F.cross_entropy(logits_CV, targets_C.to(logits_CV.device), reduction="none")


def chunked_nll(model: LoraModel, hidden_CH: Tensor, targets_C: Tensor) -> Tensor:
    """:func:`head_nll` with the logits of few tokens alive, forward and backward."""
    size = tokens_at_once(model.vocabulary)
    if not (torch.is_grad_enabled() and hidden_CH.requires_grad):
        found_C = _empty_losses(hidden_CH)
        for at in range(0, len(targets_C), size):
            found_C[at : at + size] = head_nll(model, hidden_CH[at : at + size], targets_C[at : at + size])
        return found_C
    if not model.trains_head:
        out: Tensor = _ChunkedNll.apply(model, size, hidden_CH, targets_C)  # type: ignore[no-untyped-call]
        return out
    if len(targets_C) <= size:
        return head_nll(model, hidden_CH, targets_C)
    # the head's gradient is of all tokens: logits are computed again in backward
    chunks = zip(hidden_CH.split(size), targets_C.split(size), strict=True)
    return torch.cat([checkpoint(head_nll, model, h, t, use_reentrant=False) for h, t in chunks])


def _empty_losses(hidden_CH: Tensor) -> Tensor:
    """Where the losses of all chunks go, shape (C,).

    Made before the first chunk: small tensors that stay between the large ones of two chunks would keep the allocator
    from using that room again. 2,048 tokens of 262,144 logits took 2.2 GB so, and now 0.02 (LOG.md).
    """
    return hidden_CH.new_empty(len(hidden_CH), dtype=torch.promote_types(hidden_CH.dtype, torch.float32))


class _ChunkedNll(torch.autograd.Function):
    """A token's loss depends on its own hidden state alone and the head is frozen.

    So the gradient of each loss is taken while its chunk of logits lives, and backward only scales it: nothing is
    computed twice. Recomputing logits in backward took 1.5 times as long; F.linear_cross_entropy of torch 2.13, which
    recomputes too, 1.5 to 2.3 times in float32 (and 0.4 times in bfloat16, on a CPU without bfloat16 arithmetic).
    """

    @staticmethod
    def forward(ctx: Any, model: LoraModel, size: int, hidden_CH: Tensor, targets_C: Tensor) -> Tensor:
        losses_C, grad_CH = _empty_losses(hidden_CH), torch.empty_like(hidden_CH)
        for at in range(0, len(targets_C), size):
            chunk = slice(at, at + size)
            losses_C[chunk], grad_CH[chunk] = _nll_and_gradient(model, hidden_CH[chunk], targets_C[chunk])
        ctx.save_for_backward(grad_CH)
        return losses_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_C: Tensor) -> tuple[None, None, Tensor, None]:
        (grad_CH,) = ctx.saved_tensors
        return None, None, (grad_CH * grad_C[:, None]).to(grad_CH.dtype), None


def _nll_and_gradient(model: LoraModel, hidden_CH: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`head_nll` and the gradient of its sum with respect to `hidden_CH`.

    That of a plain head is (softmax - one at the target) W, made in the room of the log-probabilities: autograd takes
    two more tensors as large as the logits for it, 4% of a step (LOG.md).
    """
    head = model.base.get_output_embeddings()
    if not model.split_head or type(head) is not nn.Linear:
        leaf_CH = hidden_CH.detach().requires_grad_()
        with torch.enable_grad():
            nll_C = head_nll(model, leaf_CH, targets_C)
            (grad_CH,) = torch.autograd.grad(nll_C.sum(), leaf_CH)
        return nll_C.detach(), grad_CH
    logits_CV = model.logits(hidden_CH)
    logs_CV = torch.log_softmax(logits_CV, -1, dtype=torch.promote_types(logits_CV.dtype, torch.float32))
    tokens_C, targets_C = torch.arange(len(targets_C), device=logs_CV.device), targets_C.to(logs_CV.device)
    nll_C = -logs_CV[tokens_C, targets_C]
    probabilities_CV = logs_CV.exp_()
    probabilities_CV[tokens_C, targets_C] -= 1
    return nll_C, probabilities_CV.to(head.weight.dtype) @ head.weight


def client_losses(model: LoraModel, batch: Batch, owners_S: Tensor, num_counted_K: Tensor) -> Tensor:
    """Summed loss over `num_counted_K` tokens of each client, in nats, shape (K,).

    `owners_S` are the clients of the sequences. `num_counted_K` counts the tokens of the whole step, so that the losses
    of its passes add up to the mean over the step. A client without counted tokens has loss 0.
    """
    nll_C, sequences_C = counted_nll(model, batch)
    sums = torch.zeros(len(num_counted_K), device=nll_C.device, dtype=nll_C.dtype)
    return sums.index_add(0, owners_S[sequences_C], nll_C) / num_counted_K.clamp(min=1)
