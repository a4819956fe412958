"""The passes of a step: which rows of which clients go through the base together.

All clients of a block share a step. Their rows are pooled, sorted by length and cut into passes of few padded tokens,
so that little is padding and a pass is as large as the processor works best with. In a pass the rows of one client lie
together. What is computed does not depend on it: a step's gradient is a sum over its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnyPart, AnyRow
from fedllm_bench.training.batches import StepPlan

# Padded tokens of a pass, forward and backward. On two cores 1,024 was the best or near it for models of hidden size
# 64, 128 and 256 (docs/speed.md). A GPU wants more.
CPU_TOKENS, CUDA_TOKENS = 1024, 16_384
PASS_SHARE = 16  # what a padded pass costs by itself, as a share of a full one
BUDGETS = (512, 1024, 2048, 4096)  # what a search chooses from on a CPU


@dataclass(frozen=True)
class PassPlan:
    """At most `tokens` padded tokens in a pass, but at least one row.

    None: a pass holds one micro-batch of each client of the block, as under version 1 of plan.json, and where what a
    row becomes depends on who shares its pass.
    `clients`: at most so many are a block, of those that `local.block_size` allows; None for all of them.
    `packed`: its sequences lie one behind another without padding (:mod:`fedllm_bench.training.model.packed`).
    """

    tokens: int | None = CPU_TOKENS
    clients: int | None = None
    packed: bool = False


DEFAULT = PassPlan()


@dataclass(frozen=True, eq=False)
class PassRow:
    """A row in a pass. `owner` is the place of its client in the block, `place` its own in the client's step."""

    owner: int
    place: int
    row: AnyRow

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(sequence.ids) for sequence in self.row.sequences)


Pass = tuple[PassRow, ...]


class Steps(Protocol):
    """What passes are made of a client's task: its local steps, whose numbers point to places in `row_numbers`."""

    @property
    def rows(self) -> AnyPart: ...

    @property
    def row_numbers(self) -> tuple[int, ...]: ...

    @property
    def steps(self) -> tuple[StepPlan, ...]: ...


def most_tokens(local: Local, device: str) -> int:
    """Tokens of a pass where no search was made: those of the kind of device, or fewer.

    `local.block_size` and `local.micro_batch` bound them, since a user lowers them to need less memory.
    """
    allowed = local.block_size * local.micro_batch * sequences_of_row(local) * local.sequence_length
    return min(CUDA_TOKENS if device == "cuda" else CPU_TOKENS, allowed)


def sequences_of_row(local: Local) -> int:
    """A pair of preferences is two sequences, the chosen and the rejected answer."""
    return 2 if local.loss == "dpo" else 1


def passes_of(tasks: Sequence[Steps], number: int, tokens: int | None, *, packed: bool = False) -> list[Pass]:
    """The passes of step `number` of all `tasks`; see :class:`PassPlan` for `tokens` and `packed`."""
    rows = [row for owner, task in enumerate(tasks) for row in _rows_of(owner, task, number)]
    return cut_up(rows, [len(task.steps[number][0]) for task in tasks], tokens, packed=packed)


def cut_up(rows: Sequence[PassRow], micro_batches: Sequence[int], tokens: int | None, *, packed: bool) -> list[Pass]:
    """The passes that `rows` make, of clients whose micro-batches have so many rows."""
    if tokens is None:
        return _by_micro_batch(rows, micro_batches)
    rows = sorted(rows, key=lambda row: (-row.longest, row.owner, row.place))
    if packed:
        sums = [sum(len(sequence.ids) for sequence in row.row.sequences) for row in rows]
        return [_by_owner(rows[start:end]) for start, end in filled(sums, tokens)]
    sizes = [row.longest for row in rows]
    width = len(rows[0].row.sequences)
    return [_by_owner(rows[start:end]) for start, end in cuts(sizes, tokens // width)]


def _rows_of(owner: int, task: Steps, number: int) -> list[PassRow]:
    flat = (row for micro in task.steps[number] for row in micro)
    return [PassRow(owner, place, task.rows[task.row_numbers[row]]) for place, row in enumerate(flat)]


def _by_owner(rows: Iterable[PassRow]) -> Pass:
    return tuple(sorted(rows, key=lambda row: (row.owner, row.place)))


def _by_micro_batch(rows: Sequence[PassRow], sizes: Sequence[int]) -> list[Pass]:
    """Each client's rows sorted by length, and as many of each in a pass as its micro-batch has."""
    found: list[list[PassRow]] = []
    for owner, size in enumerate(sizes):
        own = sorted((row for row in rows if row.owner == owner), key=lambda row: (row.longest, row.place))
        for number, start in enumerate(range(0, len(own), size)):
            if number == len(found):
                found.append([])
            found[number] += own[start : start + size]
    return [tuple(rows) for rows in found]


def segments(pass_rows: Pass, owners: Sequence[int], spans: Sequence[int]) -> tuple[int, ...]:
    """Tokens of each of `owners` in the pass, padding included. `spans` are those of its sequences."""
    tokens, per_row = Counter[int](), len(spans) // len(pass_rows)
    for place, span in enumerate(spans):
        tokens[pass_rows[place // per_row].owner] += span
    return tuple(tokens[owner] for owner in owners)


def cuts(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Where to cut rows of falling `lengths` into passes of at most `tokens` padded tokens, but at least one row.

    Of all ways the one with the fewest padded tokens, where a pass costs as much as `tokens` / PASS_SHARE of them more.
    """
    best = np.full(len(lengths) + 1, np.inf)
    best[0], begins = 0.0, np.zeros(len(lengths) + 1, dtype=np.int64)
    for start, length in enumerate(lengths):
        rows = np.arange(1, min(len(lengths) - start, max(1, tokens // length)) + 1)
        costs = best[start] + tokens / PASS_SHARE + rows * length
        better = np.flatnonzero(costs < best[start + rows]) + 1
        best[start + better], begins[start + better] = costs[better - 1], start
    found, end = [], len(lengths)
    while end:
        found.append((int(begins[end]), end))
        end = int(begins[end])
    return found[::-1]


def filled(sums: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Where to cut rows of `sums` tokens into packed passes of at most `tokens`, but at least one row: as few as can be
    in their order.
    """
    found, start, held = [], 0, 0
    for place, size in enumerate(sums):
        if place > start and held + size > tokens:
            found.append((start, place))
            start, held = place, 0
        held += size
    return [*found, (start, len(sums))] if sums else []


def padded_tokens(lengths: Sequence[int], tokens: int) -> int:
    """Tokens of all passes that rows of these lengths make, padding included."""
    falling = sorted(lengths, reverse=True)
    return sum((end - start) * falling[start] for start, end in cuts(falling, tokens)) if falling else 0
