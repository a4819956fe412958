"""A block of clients trained together on one resident base: the only training loop of the suite.

K clients in the block, P numbers in one packed adapter. K = 1 is sequential training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedllm_bench.common.trees import Layout, Tree, moved_to
from fedllm_bench.config.run import Local
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Upload
from fedllm_bench.methods.communication.compression import UNSENT
from fedllm_bench.training import optimizer
from fedllm_bench.training.client_round import (
    ClientResult,
    ClientTask,
    PhaseChain,
    moved_task,
    own_state,
    upload_failure,
)
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.model.recompute import recomputing
from fedllm_bench.training.offsite.emulating import emulating
from fedllm_bench.training.steps.mixing import Mixed, mixed_gradients, shares_of
from fedllm_bench.training.steps.step_passes import Step, over_passes, rows_of
from fedllm_bench.training.steps.zeroth_order import Probed, probed_gradients, probes_of


def train_block(
    model: LoraModel, method: FedAvg, message: Message, tasks: Sequence[ClientTask], local: Local
) -> list[ClientResult]:
    """Local training of the K clients of `tasks` from `message`, at the constant rate `local.lr`.

    The rows of a step of all clients go through the base together, pass by pass (`training/passes.py`); slice k of
    every gradient is client k's own. A client with fewer steps than others does not move after its last, nor one whose
    loss was not finite (its `failure`).
    Trees may lie anywhere; they are moved to the model's device, and the answers back to the CPU. Where the message has
    a "residual", the base carries it meanwhile. Of a model with a student it is the student that is trained, with the
    "emulator" of the message.
    """
    change = message.get("residual")  # of the base: it is added where the weights lie, and hooks do not see it
    emulator = message.get(EMULATOR)
    message = moved_to(model.device, {key: t for key, t in message.items() if key not in ("residual", EMULATOR)})

    chain = PhaseChain(method, tasks)
    with emulating(model, emulator) as trained, nullcontext() if change is None else model.carrying(change):
        for phase_method, parts in chain:
            chain.add(_train_phase(trained, phase_method, message, parts, local))
    return chain.results


def _train_phase(
    model: LoraModel, method: FedAvg, message: Message, tasks: Sequence[ClientTask], local: Local
) -> list[ClientResult]:
    """One training of the K clients from `message`, which lies on the model's device."""
    tasks = [moved_task(model.device, task) for task in tasks]
    layout = Layout.of(message["params"])
    progress = [_Progress(task, []) for task in tasks]
    y_KP = torch.stack([layout.pack(method.start(message, task.known)) for task in tasks])
    grad_sum_KP = _take_steps(model, method, message, progress, y_KP, local)
    return [_result(method, message, layout, p, y_KP[k], grad_sum_KP[k], local) for k, p in enumerate(progress)]


def _take_steps(
    model: LoraModel,
    method: FedAvg,
    message: Message,
    progress: Sequence[_Progress],
    y_KP: Tensor,
    local: Local,
) -> Tensor:
    """All local steps, which move `y_KP` in place. The sum of each client's gradients, (K, P); of no width where the
    slopes of its steps stand for them."""
    layout, sums = Layout.of(message["params"]), not method.changes("probe")
    grad_sum_KP, state = torch.zeros_like(y_KP if sums else y_KP[:, :0]), optimizer.new_state(y_KP, local.optimizer)
    for number in range(max(len(p.task.steps) for p in progress)):
        moving = [k for k, p in enumerate(progress) if number < len(p.task.steps) and p.failure is None]
        if not moving:
            break
        active, y = [progress[k].task for k in moving], rows_of(y_KP, moving)
        with recomputing(model, local.gradient_checkpointing):
            step = Step(model, layout, active, number, local)
            losses, grad_KP = _gradients(step, method, message, [progress[k] for k in moving], y)
        finite = _note_losses([progress[k] for k in moving], losses, grad_KP, number)
        moving = [k for k, good in zip(moving, finite, strict=True) if good]
        if not moving:
            break
        grad_KP = grad_KP if all(finite) else grad_KP[torch.tensor(finite)]
        if sums:
            grad_sum_KP[moving] += grad_KP
        active, y = [progress[k].task for k in moving], rows_of(y_KP, moving)
        part = optimizer.OptimizerState(rows_of(state.m, moving), rows_of(state.v, moving), number)
        corrected = _corrected(method, layout, message, active, grad_KP, y)
        clipped = _clipped([progress[k] for k in moving], corrected, local.clip)
        optimizer.OPTIMIZERS[local.optimizer](y, clipped, part, local)
        y = _after_step(method, layout, message, active, y, local.lr)
        for whole, moved in ((y_KP, y), (state.m, part.m), (state.v, part.v)):
            if whole is not moved:
                whole[moving] = moved
    return grad_sum_KP


@dataclass
class _Progress:
    """How far one client of the block has come."""

    task: ClientTask
    losses: list[float]
    failure: str | None = None
    probed: Probed = field(default_factory=Probed)
    mixed: Mixed = field(default_factory=Mixed)


def _gradients(
    step: Step, method: FedAvg, message: Message, moving: Sequence[_Progress], y_KP: Tensor
) -> tuple[list[float], Tensor]:
    """Losses of K clients and what they follow, (K, P), by the kind of step that the method takes."""
    if probes := probes_of(method, message, step.tasks, step.number):
        return probed_gradients(step, y_KP, probes, [one.probed for one in moving])
    if (shares_KM := shares_of(method, step.tasks)) is not None:
        return mixed_gradients(step, message["params"], y_KP, shares_KM, [one.mixed for one in moving])
    return _step_gradients(step.model, step.layout, y_KP, step.tasks, step.number, step.local)


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
    losses_K, grad_KP = y_KP.new_zeros(len(tasks)), torch.zeros_like(y_KP)

    def add(owners: list[int], loss_of: Callable[[Tensor], Tensor]) -> None:
        leaf = y_KP[owners].detach().requires_grad_()
        losses = loss_of(leaf)
        (grad,) = torch.autograd.grad(losses.sum(), leaf)
        losses_K[owners] += losses.detach()
        grad_KP[owners] += grad

    over_passes(Step(model, layout, tasks, number, local), y_KP, add)
    return losses_K.tolist(), grad_KP


def _clipped(progress: Sequence[_Progress], grad_KP: Tensor, max_norm: float) -> Tensor:
    """Gradients of norm `max_norm` at most; a slope that was probed for one counts as it is used.

    Those are scaled in place: nobody else needs them, and they may be as large as the base.
    """
    factors_K1 = optimizer.clip_factors(grad_KP, max_norm)
    if not progress[0].probed.seeds:
        return grad_KP * factors_K1
    for one, factor in zip(progress, factors_K1.flatten().tolist(), strict=True):
        one.probed.scale_last(factor)
    return grad_KP.mul_(factors_K1)


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
    if method.changes("probe"):
        task = replace(task, told={**task.told, **done.probed.told(y)})
    if method.changes("mixture"):
        task = replace(task, told={**task.told, **done.mixed.told(y)})
    state: ClientState = task.state
    upload: Upload = {}
    if failure is None:
        mean_grad = _copied(layout.unpack(grad_sum / max(steps, 1))) if grad_sum.numel() else {}
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
