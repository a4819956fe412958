"""Losses of clients, counted at the completion's tokens only.

K clients in the block, B rows of one client, T tokens of a row, C counted tokens of the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedllm_bench.training.batches import Batch
from fedllm_bench.training.model import LoraModel


def counted_nll(model: LoraModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Next-token loss in nats at each counted token, shape (C,), and the row of each, shape (C,).

    The head is applied at these tokens only: they are a fifth of all, and its logits the largest tensor.
    """
    hidden = model.hidden(batch.ids)[:, :-1]
    targets = batch.targets[:, 1:]
    rows, columns = torch.nonzero(targets != -100, as_tuple=True)
    logits = model.logits(hidden[rows, columns])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets[rows, columns], reduction="none"), rows


def client_losses(model: LoraModel, batch: Batch, num_clients: int, num_counted: Tensor) -> Tensor:
    """Summed loss over `num_counted` tokens of each client, in nats, shape (K,), from a batch of K*B rows.

    `num_counted`, shape (K,), counts the tokens of the whole step, so that the losses of its micro-batches
    add up to the mean over the step. A client without counted tokens has loss 0.
    """
    nll, rows = counted_nll(model, batch)
    clients = rows // (len(batch.ids) // num_clients)
    sums = torch.zeros(num_clients, device=nll.device, dtype=nll.dtype).index_add(0, clients, nll)
    return sums / num_counted.clamp(min=1)
