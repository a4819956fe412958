"""The rows of one step on their way through the base, pass by pass, to the losses of their clients.

K clients in the pass, P numbers in one packed adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from fedllm_bench.common.directions import mixed
from fedllm_bench.common.trees import Layout
from fedllm_bench.config.run import Local
from fedllm_bench.training.batches import Batch, collate
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.losses.objectives import OBJECTIVES, Rows
from fedllm_bench.training.model.lora import Masks, attach, detach
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import Pass, passes_of, segments


@dataclass(frozen=True)
class Step:
    """Local step `number` of the clients of `tasks`."""

    model: LoraModel
    layout: Layout
    tasks: Sequence[ClientTask]
    number: int
    local: Local


LossesOf = Callable[[Tensor], Tensor]  # of the packed adapters of the clients in a pass: their losses, or their rows'
AddRows = Callable[[list[int], Tensor, Tensor, LossesOf], None]


def over_passes(step: Step, y_KP: Tensor, add: Callable[[list[int], LossesOf], None]) -> None:
    """Call `add` for each pass of a step, with the clients that have rows in it, in their order, and a function.

    It gives the part of the pass in their losses: means over all tokens or pairs of a client's step. `y_KP` are the
    adapters of all clients, where an objective looks at the whole step first.
    """

    def of_clients(rows: Pass, owners: list[int], of_row_R: Tensor, num_terms_K: Tensor) -> None:
        add(owners, partial(_pass_losses, step, rows, owners, of_row_R, num_terms_K))

    _over(step, y_KP, of_clients)


def over_rows(step: Step, y_KP: Tensor, add: AddRows) -> None:
    """As :func:`over_passes`, by row: `add` gets the clients of a pass, the place of each of its R rows among them,
    (R,), the terms of each client's whole step, and a function that gives the sum of the loss over each row, (R,).
    """

    def of_rows(rows: Pass, owners: list[int], of_row_R: Tensor, num_terms_K: Tensor) -> None:
        ones_R, each_R = torch.ones_like(of_row_R), torch.arange(len(rows), device=of_row_R.device)
        add(owners, of_row_R, num_terms_K, partial(_pass_losses, step, rows, owners, each_R, ones_R))

    _over(step, y_KP, of_rows)


def _over(step: Step, y_KP: Tensor, call: Callable[[Pass, list[int], Tensor, Tensor], None]) -> None:
    """Each pass with its owners, the places of its rows among them, and the terms of their steps."""
    plan, layout = step.model.plan, step.layout
    passes = passes_of(step.tasks, step.number, plan.tokens, packed=plan.packed)
    prepared = OBJECTIVES[step.local.loss].prepared
    passes = prepared(step.model, passes, lambda owners: layout.unpack(y_KP[owners]), step.local)
    terms = [0] * len(step.tasks)
    for each in (each for rows in passes for each in rows):
        terms[each.owner] += each.row.num_terms
    num_terms_K = torch.tensor(terms, device=step.model.device)
    try:
        for rows in passes:
            owners = sorted({each.owner for each in rows})
            of_row_R = torch.tensor([owners.index(each.owner) for each in rows], device=y_KP.device)
            call(rows, owners, of_row_R, num_terms_K[owners])
    finally:
        step.model.switch.masks, step.model.switch.segments = None, ()
        detach(step.model.layers)


def _pass_losses(
    step: Step, pass_rows: Pass, owners: list[int], sums_to_R: Tensor, num_terms: Tensor, y_KP: Tensor
) -> Tensor:
    """`y_KP` are the adapters of the `owners` alone; `sums_to_R` says to which of the losses that it gives a row adds,
    and each of these is divided by its `num_terms`.
    """
    model, objective = step.model, OBJECTIVES[step.local.loss]
    attach(model.layers, step.layout.unpack(y_KP))
    rows = [each.row for each in pass_rows]
    sequences = [sequence for row in rows for sequence in row.sequences]
    batch = collate(sequences, y_KP.device, packed=model.plan.packed)
    model.switch.segments = segments(pass_rows, owners, batch.spans)
    drops = objective.dropout and model.switch.dropout
    model.switch.masks = _masks(pass_rows, step.tasks, step.number, batch) if drops else None
    return objective.losses(model, batch, Rows(rows, sums_to_R, num_terms), step.local)


def rows_of(whole_KP: Tensor, picked: Sequence[int]) -> Tensor:
    """The rows of `picked` clients: itself where these are all, which the optimiser then changes in place."""
    return whole_KP if len(picked) == len(whole_KP) else whole_KP[list(picked)]


def _masks(pass_rows: Pass, tasks: Sequence[ClientTask], number: int, batch: Batch) -> Masks:
    """Dropout of the pass: each row, which is of one sequence here, has a stream of its own."""
    streams, lengths = [], []
    for each in pass_rows:
        streams.append(mask_stream(tasks[each.owner], number, each.place, batch.ids.device))
        lengths.append(len(each.row.sequences[0].ids))
    starts = [0, *accumulate(batch.spans)]
    return Masks(streams, starts[:-1], lengths, batch.ids.numel())


def mask_stream(task: ClientTask, number: int, place: int, device: torch.device) -> torch.Generator:
    """Dropout masks are a function of (seed, round, client, step, place of the row in the step)."""
    return torch.Generator(device).manual_seed(mixed(task.seed, task.round_num, task.client, task.done + number, place))
