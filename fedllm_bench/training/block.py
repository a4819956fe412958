"""A block of clients trained in one pass on one resident base: the only training loop of the suite.

K clients in the block, P numbers in one packed adapter. K = 1 is sequential training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedllm_bench.common.trees import Layout, Tree, moved_to
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import PairPart, PairRow
from fedllm_bench.data.tokens import TokenPart, TokenRow
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Upload
from fedllm_bench.training import optimizer
from fedllm_bench.training.batches import StepPlan, collate
from fedllm_bench.training.model.lora import Masks, attach, detach
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.model.recompute import recomputing
from fedllm_bench.training.objectives import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class ClientTask:
    """All that one client needs for one round; `steps` index into `rows`, which are its own alone."""

    client: int  # index in the split
    client_id: str
    seed: int
    round_num: int
    rows: TokenPart | PairPart
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
    losses: tuple[float, ...]  # mean loss of each local step, per counted token (sft) or pair (dpo)
    failure: str | None = None


def train_block(
    model: LoraModel, method: FedAvg, message: Message, tasks: Sequence[ClientTask], local: Local
) -> list[ClientResult]:
    """Local training of the K clients of `tasks` from `message`, at the constant rate `local.lr`.

    All clients go through the base in one pass; slice k of every gradient is client k's own. A client with
    fewer steps than others does not move after its last, nor one whose loss was not finite (its `failure`).
    Trees may lie anywhere; they are moved to the model's device, and the answers back to the CPU.
    """
    message = moved_to(model.device, message)
    tasks = [replace(task, state=moved_to(model.device, task.state)) for task in tasks]
    layout = Layout.of(message["params"])
    take_step = optimizer.OPTIMIZERS[local.optimizer]
    progress = [_Progress(task, []) for task in tasks]
    y_KP = torch.stack([layout.pack(method.start(message, task.state)) for task in tasks])
    grad_sum_KP, state = torch.zeros_like(y_KP), optimizer.new_state(y_KP)
    for number in range(max(len(task.steps) for task in tasks)):
        moving = [k for k, p in enumerate(progress) if number < len(p.task.steps) and p.failure is None]
        if not moving:
            break
        active = [progress[k].task for k in moving]
        pick = slice(None) if len(moving) == len(tasks) else moving  # a slice is a view; an index copies
        y = y_KP[pick]
        with recomputing(model, local.gradient_checkpointing):
            losses, grad = _step_gradients(model, layout, y, active, number, local)
        finite = _note_losses([progress[k] for k in moving], losses, grad, number)
        grad_sum_KP[pick] += grad
        corrected = _corrected(method, layout, message, active, grad, y)
        part = optimizer.OptimizerState(state.m[pick], state.v[pick], number)
        moved, part = take_step(y, optimizer.clip(corrected, local.clip), part, local)
        moved = _after_step(method, layout, message, active, moved, local.lr)
        if not all(finite):
            pick = [k for k, good in zip(moving, finite, strict=True) if good]
            good = torch.tensor(finite)
            moved, part = moved[good], optimizer.OptimizerState(part.m[good], part.v[good], part.step)
        y_KP[pick], state.m[pick], state.v[pick] = moved, part.m, part.v
    return [_result(method, message, layout, p, y_KP[k], grad_sum_KP[k], local) for k, p in enumerate(progress)]


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
            one.failure = f"loss {loss} or its gradient is not finite at local step {number + 1}"
    return [one.failure is None for one in progress]


def _step_gradients(
    model: LoraModel, layout: Layout, y_KP: Tensor, tasks: Sequence[ClientTask], number: int, local: Local
) -> tuple[list[float], Tensor]:
    """Losses of K clients and their gradients (K, P): means over all tokens or pairs of a step's micro-batches."""
    leaf = y_KP.detach().requires_grad_()
    micros = micro_batches(tasks, number)
    objective = OBJECTIVES[local.loss]
    num_terms = torch.tensor(
        [sum(row.num_terms for rows in micros for row in rows[k]) for k in range(len(tasks))],
        device=y_KP.device,
    )
    streams = [_mask_stream(task, number, y_KP.device) for task in tasks]
    total, grads = y_KP.new_zeros(len(tasks)), list[Tensor]()
    attach(model.layers, layout.unpack(leaf))
    try:
        for rows in micros:
            sequences = [[sequence for row in own for sequence in row.sequences] for own in rows]
            lengths = [max(len(sequence.ids) for sequence in own) for own in sequences]
            model.switch.masks = Masks(streams, len(sequences[0]), lengths) if objective.dropout else None
            batch = collate([sequence for own in sequences for sequence in own], y_KP.device)
            losses = objective.losses(model, batch, rows, num_terms, local)
            (micro_grad,) = torch.autograd.grad(losses.sum(), leaf, retain_graph=len(micros) > 1)
            grads = [grads[0].add_(micro_grad)] if grads else [micro_grad]
            total += losses.detach()
            del losses  # else its graph lives on beside that of the next micro-batch
    finally:
        model.switch.masks = None
        detach(model.layers)
    return total.tolist(), grads[0]


def micro_batches(tasks: Sequence[ClientTask], number: int) -> list[list[list[TokenRow | PairRow]]]:
    """Rows of a step, [micro-batch][client][row]; every client has as many micro-batches of as many rows.

    A client's rows are sorted by length first, which changes no mean over a step but leaves less padding.
    """
    passes = []
    for task in tasks:
        rows = [task.rows[task.row_numbers[i]] for micro in task.steps[number] for i in micro]
        rows.sort(key=lambda row: max(len(sequence.ids) for sequence in row.sequences))
        size = len(task.steps[number][0])
        passes.append([rows[start : start + size] for start in range(0, len(rows), size)])
    return [list(micro) for micro in zip(*passes, strict=True)]


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
    """The clients' states as one, each tensor with a leading K axis."""
    first = tasks[0].state
    return {
        key: {name: torch.stack([task.state[key][name] for task in tasks]) for name in tree}
        for key, tree in first.items()
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
        state, upload = method.finish(message, task.state, final, mean_grad, steps, local.lr)
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


def upload_failure(upload: Upload) -> str | None:
    """Why an upload cannot be averaged: the first tensor with a number that its type cannot hold."""
    for key, tree in upload.items():
        for name, tensor in tree.items():
            if not bool(tensor.isfinite().all()):
                return f"its upload is not finite in {str(tensor.dtype).removeprefix('torch.')} ({key}, {name})"
    return None


def _copied(tree: Tree) -> Tree:
    """Tensors of their own: a view would keep the packed adapters of all K clients alive."""
    return {name: tensor.clone() for name, tensor in tree.items()}


def _mask_stream(task: ClientTask, number: int, device: torch.device) -> torch.Generator:
    """Dropout masks are a function of (seed, round, client, step)."""
    words = torch.tensor([task.seed, task.round_num, task.client, number]).tolist()
    mixed = 0
    for word in words:  # the multiplier of splitmix64 spreads neighbouring seeds apart
        mixed = ((mixed ^ word) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**63
    return torch.Generator(device).manual_seed(mixed)


Block = Sequence[ClientTask]

MapBlocks = Callable[[Message, Iterable[Block], Local], Iterable[list[ClientResult]]]
