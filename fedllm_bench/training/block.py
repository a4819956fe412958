"""A block of clients trained on one resident base: the only training loop of the suite.

One client at a time for now; the signature is that of many clients in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedllm_bench.config import Local
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Upload
from fedllm_bench.training import optimizer
from fedllm_bench.training.batches import StepPlan, collate
from fedllm_bench.training.lora import attach, detach
from fedllm_bench.training.loss import client_losses
from fedllm_bench.training.model import LoraModel
from fedllm_bench.trees import Layout, Tree


@dataclass(frozen=True, kw_only=True)
class ClientTask:
    """All that one client needs for one round; `steps` index into `rows`, which are its own alone."""

    client: int  # index in the split
    client_id: str
    seed: int
    round_num: int
    rows: TokenPart
    row_numbers: tuple[int, ...]
    steps: tuple[StepPlan, ...]
    state: ClientState


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """What a client answers; with a `failure` the rest is empty and it does not count in the mean."""

    client: int
    client_id: str
    upload: Upload
    state: ClientState
    num_examples: int
    losses: tuple[float, ...]  # mean loss of each local step, nats per counted token
    failure: str | None = None


def train_block(
    model: LoraModel, method: FedAvg, message: Message, tasks: Sequence[ClientTask], local: Local
) -> list[ClientResult]:
    """Local training of each task's client from `message`, at the constant rate `local.lr`."""
    return [_train_client(model, method, message, task, local) for task in tasks]


def _train_client(
    model: LoraModel, method: FedAvg, message: Message, task: ClientTask, local: Local
) -> ClientResult:
    layout = Layout.of(message["params"])
    take_step = optimizer.OPTIMIZERS[local.optimizer]
    y = layout.pack(method.start(message, task.state))[None]
    state, total_grad, losses = optimizer.new_state(y), torch.zeros_like(y), []
    for number, micro_batches in enumerate(task.steps):
        loss, grad = _step_gradient(model, layout, y, task, number, micro_batches)
        if not (math.isfinite(loss) and bool(torch.isfinite(grad).all())):
            return _failed(task, losses, f"loss {loss} or its gradient is not finite at local step {number + 1}")
        losses.append(loss)
        total_grad += grad
        corrected = method.correct(layout.unpack(grad[0]), layout.unpack(y[0]), message, task.state)
        clipped = optimizer.clip(layout.pack(corrected)[None], local.clip)
        y, state = take_step(y, clipped, state, local)
        moved = method.after_step(layout.unpack(y[0]), message, task.state, local.lr)
        y = layout.pack(moved)[None]
    mean_grad = layout.unpack(total_grad[0] / max(len(task.steps), 1))
    client_state, upload = method.finish(
        message, task.state, _own(layout.unpack(y[0])), mean_grad, len(task.steps), local.lr
    )
    return ClientResult(
        client=task.client,
        client_id=task.client_id,
        upload=upload,
        state=client_state,
        num_examples=len(task.row_numbers),
        losses=tuple(losses),
    )


def _step_gradient(
    model: LoraModel, layout: Layout, y: Tensor, task: ClientTask, number: int, micro_batches: StepPlan
) -> tuple[float, Tensor]:
    """Loss and gradient, shape (1, P), of one step: the mean over the counted tokens of its micro-batches."""
    leaf = y.detach().requires_grad_()
    stacked = {name: tensor[None] for name, tensor in layout.unpack(leaf[0]).items()}
    rows = [[task.rows[task.row_numbers[i]] for i in micro] for micro in micro_batches]
    counted = torch.tensor([sum(row.num_counted for micro in rows for row in micro)], device=y.device)
    loss, grad = 0.0, torch.zeros_like(y)
    attach(model.layers, stacked)
    model.switch.streams = [_mask_stream(task, number, y.device)]
    try:
        for micro in rows:
            losses = client_losses(model, collate(micro, y.device), 1, counted)
            (micro_grad,) = torch.autograd.grad(losses.sum(), leaf, retain_graph=len(rows) > 1)
            grad += micro_grad
            loss += float(losses[0].detach())
    finally:
        model.switch.streams = ()
        detach(model.layers)
    return loss, grad


def _mask_stream(task: ClientTask, number: int, device: torch.device) -> torch.Generator:
    """Dropout masks are a function of (seed, round, client, step)."""
    words = torch.tensor([task.seed, task.round_num, task.client, number]).tolist()
    mixed = 0
    for word in words:  # the multiplier of splitmix64 spreads neighbouring seeds apart
        mixed = ((mixed ^ word) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
    return torch.Generator(device).manual_seed(mixed)


def _own(tree: Tree) -> Tree:
    """Tensors with memory of their own, not views into the packed vector."""
    return {name: tensor.clone() for name, tensor in tree.items()}


def _failed(task: ClientTask, losses: Sequence[float], reason: str) -> ClientResult:
    return ClientResult(
        client=task.client,
        client_id=task.client_id,
        upload={},
        state=task.state,
        num_examples=len(task.row_numbers),
        losses=tuple(losses),
        failure=reason,
    )
