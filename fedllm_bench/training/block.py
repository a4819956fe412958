"""A block of clients trained together on one resident base: the only training loop of the suite.

K clients in the block, P numbers in one packed adapter. K = 1 is sequential training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from fedllm_bench.common.directions import DIRECTION, Probe, mixed
from fedllm_bench.common.trees import Layout, Tree, moved_to
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Upload
from fedllm_bench.training import optimizer
from fedllm_bench.training.batches import Batch, StepPlan, collate
from fedllm_bench.training.model.lora import Masks, attach, detach
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.model.recompute import recomputing
from fedllm_bench.training.objectives import OBJECTIVES, Rows
from fedllm_bench.training.passes import Pass, passes_of
from fedllm_bench.training.zeroth_order import Probed, along, slopes_of


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

    The rows of a step of all clients go through the base together, pass by pass (`training/passes.py`); slice k of
    every gradient is client k's own. A client with fewer steps than others does not move after its last, nor one whose
    loss was not finite (its `failure`).
    Trees may lie anywhere; they are moved to the model's device, and the answers back to the CPU.
    """
    message = moved_to(model.device, message)
    tasks = [replace(task, state=moved_to(model.device, task.state)) for task in tasks]
    layout = Layout.of(message["params"])
    progress = [_Progress(task, []) for task in tasks]
    y_KP = torch.stack([layout.pack(method.start(message, task.state)) for task in tasks])
    grad_sum_KP, state = torch.zeros_like(y_KP), optimizer.new_state(y_KP)
    for number in range(max(len(task.steps) for task in tasks)):
        moving = [k for k, p in enumerate(progress) if number < len(p.task.steps) and p.failure is None]
        if not moving:
            break
        active, y = [progress[k].task for k in moving], _rows(y_KP, moving)
        probes = _probes(method, message, active, number)
        with recomputing(model, local.gradient_checkpointing):
            if probes:
                losses, grad_KP = _probed_gradients(
                    model, layout, y, probes, [progress[k] for k in moving], number, local
                )
            else:
                losses, grad_KP = _step_gradients(model, layout, y, active, number, local)
        finite = _note_losses([progress[k] for k in moving], losses, grad_KP, number)
        moving = [k for k, good in zip(moving, finite, strict=True) if good]
        if not moving:
            break
        grad_KP = grad_KP if all(finite) else grad_KP[torch.tensor(finite)]
        grad_sum_KP[moving] += grad_KP
        active, y = [progress[k].task for k in moving], _rows(y_KP, moving)
        part = optimizer.OptimizerState(_rows(state.m, moving), _rows(state.v, moving), number)
        corrected = _corrected(method, layout, message, active, grad_KP, y)
        clipped = _clipped([progress[k] for k in moving], corrected, local.clip)
        optimizer.OPTIMIZERS[local.optimizer](y, clipped, part, local)
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
    probed: Probed = field(default_factory=Probed)


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
    """Losses of K clients and their gradients (K, P): means over all tokens or pairs of their step."""
    losses_K, grad_KP = y_KP.new_zeros(len(tasks)), torch.zeros_like(y_KP)

    def add(owners: list[int], loss_of: Callable[[Tensor], Tensor]) -> None:
        leaf = y_KP[owners].detach().requires_grad_()
        losses = loss_of(leaf)
        (grad,) = torch.autograd.grad(losses.sum(), leaf)
        losses_K[owners] += losses.detach()
        grad_KP[owners] += grad

    _over_passes(model, layout, tasks, number, local, add)
    return losses_K.tolist(), grad_KP


def _step_losses(
    model: LoraModel, layout: Layout, y_KP: Tensor, tasks: Sequence[ClientTask], number: int, local: Local
) -> Tensor:
    """Losses of K clients alone, (K,), by the same passes and dropout masks: nothing is kept for a backward pass."""
    losses_K = y_KP.new_zeros(len(tasks))

    def add(owners: list[int], loss_of: Callable[[Tensor], Tensor]) -> None:
        losses_K[owners] += loss_of(_rows(y_KP, owners))

    with torch.no_grad():
        _over_passes(model, layout, tasks, number, local, add)
    return losses_K


def _probed_gradients(
    model: LoraModel,
    layout: Layout,
    y_KP: Tensor,
    probes: Sequence[Probe],
    progress: Sequence[_Progress],
    number: int,
    local: Local,
) -> tuple[list[float], Tensor]:
    """As :func:`_step_gradients`, by forward passes: the slope along each client's direction, times the direction."""
    tasks = [one.task for one in progress]
    losses, slopes = slopes_of(
        lambda at_KP: _step_losses(model, layout, at_KP, tasks, number, local), layout, y_KP, probes
    )
    for one, probe, slope in zip(progress, probes, slopes, strict=True):
        one.probed.note(probe, slope)
    return losses, along(layout, y_KP, probes, slopes)


def _over_passes(
    model: LoraModel,
    layout: Layout,
    tasks: Sequence[ClientTask],
    number: int,
    local: Local,
    add: Callable[[list[int], Callable[[Tensor], Tensor]], None],
) -> None:
    """Call `add` for each pass of a step, with the clients that have rows in it and a function: from their packed
    adapters, a row for each, to the part of the pass in their losses.
    """
    passes = passes_of(tasks, number, model.plan.tokens, packed=model.plan.packed)
    terms = [0] * len(tasks)
    for each in (each for rows in passes for each in rows):
        terms[each.owner] += each.row.num_terms
    num_terms_K = torch.tensor(terms, device=model.device)
    try:
        for rows in passes:
            owners = sorted({each.owner for each in rows})
            add(owners, lambda y, rows=rows: _pass_losses(model, layout, y, rows, tasks, number, num_terms_K, local))  # type: ignore[misc]
    finally:
        model.switch.masks, model.switch.segments = None, ()
        detach(model.layers)


def _pass_losses(
    model: LoraModel,
    layout: Layout,
    y_KP: Tensor,
    pass_rows: Pass,
    tasks: Sequence[ClientTask],
    number: int,
    num_terms_K: Tensor,
    local: Local,
) -> Tensor:
    """The part of one pass in the losses of the clients that have rows in it; `y_KP` are theirs alone."""
    owners = sorted({each.owner for each in pass_rows})
    attach(model.layers, layout.unpack(y_KP))
    objective = OBJECTIVES[local.loss]
    rows = [each.row for each in pass_rows]
    sequences = [sequence for row in rows for sequence in row.sequences]
    batch = collate(sequences, y_KP.device, packed=model.plan.packed)
    of_row = torch.tensor([owners.index(each.owner) for each in pass_rows], device=y_KP.device)
    model.switch.segments = _segments(pass_rows, owners, batch)
    model.switch.masks = _masks(pass_rows, tasks, number, batch) if objective.dropout and model.switch.dropout else None
    return objective.losses(model, batch, Rows(rows, of_row, num_terms_K[owners]), local)


def _probes(method: FedAvg, message: Message, tasks: Sequence[ClientTask], number: int) -> list[Probe]:
    """The direction of each client's step, drawn anew for each; [] for a method that follows the gradient."""
    if not method.changes("probe"):
        return []
    moments = [mixed(task.seed, task.round_num, task.client, number, DIRECTION) for task in tasks]
    found = [method.probe(message, task.state, moment) for task, moment in zip(tasks, moments, strict=True)]
    return [probe for probe in found if probe is not None]


def _clipped(progress: Sequence[_Progress], grad_KP: Tensor, max_norm: float) -> Tensor:
    """Gradients of norm `max_norm` at most; a slope that was probed for one counts as it is used."""
    factors_K1 = optimizer.clip_factors(grad_KP, max_norm)
    if progress[0].probed.seeds:
        for one, factor in zip(progress, factors_K1.flatten().tolist(), strict=True):
            one.probed.scale_last(factor)
    return grad_KP * factors_K1


def _segments(pass_rows: Pass, owners: Sequence[int], batch: Batch) -> tuple[int, ...]:
    """Tokens of each client in the pass, padding included."""
    tokens, per_row = Counter[int](), len(batch.spans) // len(pass_rows)
    for place, span in enumerate(batch.spans):
        tokens[pass_rows[place // per_row].owner] += span
    return tuple(tokens[owner] for owner in owners)


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


def _mask_stream(task: ClientTask, number: int, place: int, device: torch.device) -> torch.Generator:
    """Dropout masks are a function of (seed, round, client, step, place of the row in the step)."""
    return torch.Generator(device).manual_seed(mixed(task.seed, task.round_num, task.client, number, place))


Block = Sequence[ClientTask]

MapBlocks = Callable[[Message, Iterable[Block], Local], Iterable[list[ClientResult]]]
