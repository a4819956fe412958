"""What one client is to do in a round, what it answers, and the way from the one to the other.

A method lays a round out as one training after another, where most methods have one. All clients of a block are in the
same phase, and each phase begins with a new optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from fedllm_bench.common.trees import moved_to
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnyPart
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Phase, Upload
from fedllm_bench.training.batches import StepPlan


@dataclass(frozen=True, kw_only=True)
class ClientTask:
    """All that one client needs for one round; `steps` index into `rows`, which are its own alone."""

    client: int  # index in the split
    client_id: str
    seed: int
    round_num: int
    rows: AnyPart
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
    losses: tuple[float, ...]  # mean loss of each local step, per counted token (sft), pair (dpo) or answer (kto)
    failure: str | None = None


Block = Sequence[ClientTask]
MapBlocks = Callable[[Message, Iterable[Block], Local], Iterable[list[ClientResult]]]  # an engine


@dataclass
class PhaseChain:
    """The phases of a round of the clients of `tasks`: goes through (method, tasks of the phase) one after another.

    What each of them came to is given to `add` before the next is asked for; `results` are those of all together.
    A client that fails takes no part in later phases: its upload is empty, and its state is that of before the round.
    """

    method: FedAvg
    tasks: Sequence[ClientTask]
    found: list[ClientResult | None] = field(default_factory=list)
    going: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[FedAvg, list[ClientTask]]]:
        """Raises a :class:`ValueError` where two clients would have different methods in the same phase."""
        chains = [self.method.phases(len(task.steps)) for task in self.tasks]
        self.found = [None] * len(self.tasks)
        for place in range(max(map(len, chains))):
            self.going = [k for k, chain in enumerate(chains) if place < len(chain) and not _failed(self.found[k])]
            if not self.going:
                return
            phases = [chains[k][place] for k in self.going]
            if any(phase.method != phases[0].method for phase in phases):
                raise ValueError(f"phase {place + 1} has different methods for the clients of a block")
            pairs = zip(self.going, phases, strict=True)
            yield phases[0].method, [_part(self.tasks[k], phase, self.found[k]) for k, phase in pairs]

    def add(self, results: Sequence[ClientResult]) -> None:
        for k, result in zip(self.going, results, strict=True):
            self.found[k] = _joined(self.tasks[k], self.found[k], result)

    @property
    def results(self) -> list[ClientResult]:
        return [result for result in self.found if result is not None]


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
