"""What one client is to do in a round, what it answers, and the way from the one to the other.

A method lays a round out as one training after another, where most methods have one. All clients of a block are in the
same phase, and each phase begins with a new optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from fedllm_bench.common.trees import moved_to
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Upload
from fedllm_bench.training.batches import StepPlan


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
    told: Message = field(default_factory=dict)  # by the server, to this client alone
    done: int = 0  # local steps of earlier phases of the round

    @property
    def known(self) -> ClientState:
        """What the hooks see of the client: its state, and what it was told."""
        return {**self.state, **self.told}


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


Train = Callable[[FedAvg, Sequence[ClientTask]], list[ClientResult]]


def through_phases(method: FedAvg, tasks: Sequence[ClientTask], train: Train) -> list[ClientResult]:
    """What the clients of `tasks` answer after all phases of `method`, each trained by `train`.

    A client that fails takes no part in later phases: its upload is empty, and its state is that of before the round.
    Raises a :class:`ValueError` where two clients would have different methods in the same phase.
    """
    chains = [method.phases(len(task.steps)) for task in tasks]
    found: list[ClientResult | None] = [None] * len(tasks)
    for place in range(max(map(len, chains))):
        going = [k for k, chain in enumerate(chains) if place < len(chain) and not _failed(found[k])]
        if not going:
            break
        phases = [chains[k][place] for k in going]
        if any(phase.method != phases[0].method for phase in phases):
            raise ValueError(f"phase {place + 1} has different methods for the clients of a block")
        parts = [_part(tasks[k], phase, found[k]) for k, phase in zip(going, phases, strict=True)]
        for k, result in zip(going, train(phases[0].method, parts), strict=True):
            found[k] = _joined(tasks[k], found[k], result)
    return [result for result in found if result is not None]


def _failed(result: ClientResult | None) -> bool:
    return result is not None and result.failure is not None


def _part(task: ClientTask, phase: Phase, before: ClientResult | None) -> ClientTask:
    """The task of one phase, which goes on from the state after the last one."""
    if before is None:
        return replace(task, steps=tuple(task.steps[number] for number in phase.steps))
    steps = tuple(task.steps[number] for number in phase.steps)
    return replace(task, steps=steps, state=before.state, done=len(before.losses))


def _joined(task: ClientTask, before: ClientResult | None, result: ClientResult) -> ClientResult:
    if before is None:
        return result
    losses = (*before.losses, *result.losses)
    if result.failure is not None:
        return replace(result, losses=losses, state=task.state)
    return replace(result, losses=losses, upload=before.upload | result.upload)


def moved_task(device: torch.device, task: ClientTask) -> ClientTask:
    """The task with its trees on another device."""
    return replace(task, state=moved_to(device, task.state), told=moved_to(device, task.told))


def own_state(task: ClientTask, known: ClientState) -> ClientState:
    """The client's state without what the server told it for this round."""
    return {key: tree for key, tree in known.items() if key not in task.told}


def upload_failure(upload: Upload) -> str | None:
    """Why an upload cannot be averaged: the first tensor with a number that its type cannot hold."""
    for key, tree in upload.items():
        for name, tensor in tree.items():
            if not bool(tensor.isfinite().all()):
                return f"its upload is not finite in {str(tensor.dtype).removeprefix('torch.')} ({key}, {name})"
    return None
