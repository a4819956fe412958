"""A block of clients trained together on one resident base: the only training loop of the suite.

K clients in the block, P numbers in one packed adapter. K = 1 is sequential training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fedllm_bench.common.trees import Layout, Tree, moved_to
from fedllm_bench.config.run import Local
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Upload
from fedllm_bench.methods.compression import UNSENT
from fedllm_bench.training import optimizer
from fedllm_bench.training.batches import Batch, collate
from fedllm_bench.training.client_round import (
    ClientResult,
    ClientTask,
    moved_task,
    own_state,
    through_phases,
    upload_failure,
)
from fedllm_bench.training.model.lora import Masks, attach, detach
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.model.recompute import recomputing
from fedllm_bench.training.objectives import OBJECTIVES, Rows
from fedllm_bench.training.passes import Pass, passes_of, segments


def train_block(
    model: LoraModel, method: FedAvg, message: Message, tasks: Sequence[ClientTask], local: Local
) -> list[ClientResult]:
    """Local training of the K clients of `tasks` from `message`, at the constant rate `local.lr`.

    The rows of a step of all clients go through the base together, pass by pass (`training/passes.py`); slice k of
    every gradient is client k's own. A client with fewer steps than others does not move after its last, nor one whose
    loss was not finite (its `failure`).
    Trees may lie anywhere; they are moved to the model's device, and the answers back to the CPU. Where the message has
    a "residual", the base carries it meanwhile.
    """
    change = message.get("residual")  # of the base: it is added where the weights lie, and hooks do not see it
    message = moved_to(model.device, {key: tree for key, tree in message.items() if key != "residual"})

    def train(phase_method: FedAvg, parts: Sequence[ClientTask]) -> list[ClientResult]:
        return _train_phase(model, phase_method, message, parts, local)

    with nullcontext() if change is None else model.carrying(change):
        return through_phases(method, tasks, train)


def _train_phase(
    model: LoraModel, method: FedAvg, message: Message, tasks: Sequence[ClientTask], local: Local
) -> list[ClientResult]:
    """One training of the K clients from `message`, which lies on the model's device."""
    tasks = [moved_task(model.device, task) for task in tasks]
    layout = Layout.of(message["params"])
    progress = [_Progress(task, []) for task in tasks]
    y_KP = torch.stack([layout.pack(method.start(message, task.known)) for task in tasks])
    grad_sum_KP, state = torch.zeros_like(y_KP), optimizer.new_state(y_KP)
    for number in range(max(len(task.steps) for task in tasks)):
        moving = [k for k, p in enumerate(progress) if number < len(p.task.steps) and p.failure is None]
        if not moving:
            break
        active = [progress[k].task for k in moving]
        with recomputing(model, local.gradient_checkpointing):
            losses, grad_KP = _step_gradients(model, layout, _rows(y_KP, moving), active, number, local)
        finite = _note_losses([progress[k] for k in moving], losses, grad_KP, number)
        moving = [k for k, good in zip(moving, finite, strict=True) if good]
        if not moving:
            break
        grad_KP = grad_KP if all(finite) else grad_KP[torch.tensor(finite)]
        grad_sum_KP[moving] += grad_KP
        active, y = [progress[k].task for k in moving], _rows(y_KP, moving)
        part = optimizer.OptimizerState(_rows(state.m, moving), _rows(state.v, moving), number)
        corrected = _corrected(method, layout, message, active, grad_KP, y)
        optimizer.OPTIMIZERS[local.optimizer](y, optimizer.clip(corrected, local.clip), part, local)
        y = _after_step(method, layout, message, active, y, local.lr)
        for whole, moved in ((y_KP, y), (state.m, part.m), (state.v, part.v)):
            if whole is not moved:
                whole[moving] = moved
    return [_result(method, message, layout, p, y_KP[k], grad_sum_KP[k], local) for k, p in enumerate(progress)]


def _rows(whole_KP: Tensor, picked: Sequence[int]) -> Tensor:
    """The rows of `picked` clients: itself where these are all, which the optimiser then changes in place."""
    return whole_KP if len(picked) == len(whole_KP) else whole_KP[list(picked)]


@dataclass
class _Progress:
    """How far one client of the block has come."""

    task: ClientTask
    losses: list[float]
    failure: str | None = None


def _note_losses(progress: Sequence[_Progress], losses: Sequence[float], grad_KP: Tensor, number: int) -> list[bool]:
    """Whether each client's loss and gradient are finite; the first that is not becomes its failure."""
    finite_grads = torch.isfinite(grad_KP.sum(dim=1)).tolist()  # a sum is finite only where all it sums is
    for one, loss, finite_grad in zip(progress, losses, finite_grads, strict=True):
        if math.isfinite(loss) and finite_grad:
            one.losses.append(loss)
        else:
            one.failure = f"loss {loss} or its gradient is not finite at local step {one.task.done + number + 1}"
    return [one.failure is None for one in progress]


def _step_gradients(
    model: LoraModel, layout: Layout, y_KP: Tensor, tasks: Sequence[ClientTask], number: int, local: Local
) -> tuple[list[float], Tensor]:
    """Losses of K clients and their gradients (K, P): means over all tokens or pairs of their step."""
    passes = passes_of(tasks, number, model.plan.tokens, packed=model.plan.packed)
    passes = OBJECTIVES[local.loss].prepared(model, passes, lambda owners: layout.unpack(y_KP[owners]), local)
    terms = [0] * len(tasks)
    for each in (each for rows in passes for each in rows):
        terms[each.owner] += each.row.num_terms
    num_terms_K = torch.tensor(terms, device=y_KP.device)
    losses_K, grad_KP = y_KP.new_zeros(len(tasks)), torch.zeros_like(y_KP)
    try:
        for rows in passes:
            losses, grad = _pass_gradients(model, layout, y_KP, rows, tasks, number, num_terms_K, local)
            owners = sorted({each.owner for each in rows})
            losses_K[owners] += losses
            grad_KP[owners] += grad
    finally:
        model.switch.masks, model.switch.segments = None, ()
        detach(model.layers)
    return losses_K.tolist(), grad_KP


def _pass_gradients(
    model: LoraModel,
    layout: Layout,
    y_KP: Tensor,
    pass_rows: Pass,
    tasks: Sequence[ClientTask],
    number: int,
    num_terms_K: Tensor,
    local: Local,
) -> tuple[Tensor, Tensor]:
    """The part of one pass in the losses and gradients of the clients that have rows in it, in their order."""
    owners = sorted({each.owner for each in pass_rows})
    leaf = y_KP[owners].detach().requires_grad_()
    attach(model.layers, layout.unpack(leaf))
    objective = OBJECTIVES[local.loss]
    rows = [each.row for each in pass_rows]
    sequences = [sequence for row in rows for sequence in row.sequences]
    batch = collate(sequences, y_KP.device, packed=model.plan.packed)
    of_row = torch.tensor([owners.index(each.owner) for each in pass_rows], device=y_KP.device)
    model.switch.segments = segments(pass_rows, owners, batch.spans)
    model.switch.masks = _masks(pass_rows, tasks, number, batch) if objective.dropout and model.switch.dropout else None
    losses = objective.losses(model, batch, Rows(rows, of_row, num_terms_K[owners]), local)
    (grad,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), grad


def _masks(pass_rows: Pass, tasks: Sequence[ClientTask], number: int, batch: Batch) -> Masks:
    """Dropout of the pass: each row, which is of one sequence here, has a stream of its own."""
    streams, lengths = [], []
    for each in pass_rows:
        streams.append(_mask_stream(tasks[each.owner], number, each.place, batch.ids.device))
        lengths.append(len(each.row.sequences[0].ids))
    starts = [0, *accumulate(batch.spans)]
    return Masks(streams, starts[:-1], lengths, batch.ids.numel())


def _corrected(
    method: FedAvg,
    layout: Layout,
    message: Message,
    tasks: Sequence[ClientTask],
    grad_KP: Tensor,
    y_KP: Tensor,
) -> Tensor:
    """`method.correct` for every client at once."""
    if not method.changes("correct"):
        return grad_KP

    def one(grad: Tensor, y: Tensor, state: ClientState) -> Tensor:
        return layout.pack(method.correct(layout.unpack(grad), layout.unpack(y), message, state))

    out: Tensor = torch.vmap(one)(grad_KP, y_KP, _stacked_states(tasks))
    return out


def _after_step(
    method: FedAvg, layout: Layout, message: Message, tasks: Sequence[ClientTask], y_KP: Tensor, lr: float
) -> Tensor:
    """`method.after_step` for every client at once."""
    if not method.changes("after_step"):
        return y_KP

    def one(y: Tensor, state: ClientState) -> Tensor:
        return layout.pack(method.after_step(layout.unpack(y), message, state, lr))

    out: Tensor = torch.vmap(one)(y_KP, _stacked_states(tasks))
    return out


def _stacked_states(tasks: Sequence[ClientTask]) -> ClientState:
    """What the clients know as one, each tensor with a leading K axis; no step asks for what they did not send yet."""
    known = [task.known for task in tasks]
    return {
        key: {name: torch.stack([one[key][name] for one in known]) for name in tree}
        for key, tree in known[0].items()
        if not key.startswith(UNSENT)
    }


def _result(
    method: FedAvg,
    message: Message,
    layout: Layout,
    done: _Progress,
    y: Tensor,
    grad_sum: Tensor,
    local: Local,
) -> ClientResult:
    task, steps, failure = done.task, len(done.task.steps), done.failure
    state: ClientState = task.state
    upload: Upload = {}
    if failure is None:
        mean_grad = _copied(layout.unpack(grad_sum / max(steps, 1)))
        final = _copied(layout.unpack(y))
        known, upload = method.finish(message, task.known, final, mean_grad, steps, local.lr)
        state = own_state(task, known)
        failure = upload_failure(upload)
    if failure is not None:
        state, upload = task.state, {}
    return ClientResult(
        client=task.client,
        client_id=task.client_id,
        upload=moved_to(torch.device("cpu"), upload),
        state=moved_to(torch.device("cpu"), state),
        num_examples=len(task.row_numbers),
        losses=tuple(done.losses),
        failure=failure,
    )


def _copied(tree: Tree) -> Tree:
    """Tensors of their own: a view would keep the packed adapters of all K clients alive."""
    return {name: tensor.clone() for name, tensor in tree.items()}


def _mask_stream(task: ClientTask, number: int, place: int, device: torch.device) -> torch.Generator:
    """Dropout masks are a function of (seed, round, client, step, place of the row in the step)."""
    words = (task.seed, task.round_num, task.client, task.done + number, place)
    mixed = 0
    for word in words:  # the multiplier of splitmix64 spreads neighbouring seeds apart
        mixed = ((mixed ^ word) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
    return torch.Generator(device).manual_seed(mixed)


Block = Sequence[ClientTask]

MapBlocks = Callable[[Message, Iterable[Block], Local], Iterable[list[ClientResult]]]
