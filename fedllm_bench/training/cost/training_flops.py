"""The FLOP of all local steps of a run, from its log of rounds: what each client trained on is a function of the seed.

Nothing is measured, so a run that was killed and went on has the same number as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnswerPart, AnyPart, PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import FedAvg, Server
from fedllm_bench.methods.fedem import num_mixed
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.cost.model_flops import ModelFlops
from fedllm_bench.training.faults import DROPPED_OUT
from fedllm_bench.training.losses.objectives import needs_reference
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.tasks import pooled_task, tasks_of_round

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowSizes:
    """Tokens of each sequence of a part, how many of them have a loss, and how many sequences lie in a row."""

    tokens: Ints
    counted: Ints
    per_row: int

    @classmethod
    def of(cls, part: AnyPart, local: Local | None = None) -> RowSizes:
        """`local`: of training, where ORPO has a loss at all tokens of the chosen sequence."""
        sequences = part if isinstance(part, TokenPart) else _sequences(part)
        starts = np.asarray(sequences.starts, np.int64)
        ends = np.concatenate([[0], np.cumsum(sequences.counted, dtype=np.int64)])
        tokens, counted = np.diff(starts), np.diff(ends[starts])
        if isinstance(part, PairPart) and local and local.loss == "dpo" and local.dpo_loss == "orpo":
            counted = counted.copy()
            counted[::2] = tokens[::2] - 1  # nothing predicts the first
        return cls(tokens, counted, 2 if isinstance(part, PairPart) else 1)

    def by_row(self, of_sequences: Ints) -> Ints:
        return np.asarray(of_sequences.reshape(-1, self.per_row).sum(1))


def _sequences(part: PairPart | AnswerPart) -> TokenPart:
    return part.pairs.sequences if isinstance(part, AnswerPart) else part.sequences


@dataclass(frozen=True)
class StepFlops:
    """FLOP of the rows of a part in a local step, of each row by itself."""

    flops: ModelFlops
    rows: RowSizes
    local: Local

    @cached_property
    def forward(self) -> Ints:
        return self.rows.by_row(self.flops.forward(self.rows.tokens, self.rows.counted))

    @cached_property
    def base_forward(self) -> Ints:
        """Under the base alone."""
        return self.rows.by_row(self.flops.forward(self.rows.tokens, self.rows.counted, has_adapter=False))

    @cached_property
    def backward(self) -> Ints:
        return self.rows.by_row(self.flops.backward(self.rows.tokens, self.rows.counted))

    @property
    def prepared(self) -> Ints | int:
        """Of KTO's z0, which needs both the policy and the base on answers of other rows of the micro-batch. These are
        about as long as the rows themselves.
        """
        return self.forward + self.base_forward if self.local.loss == "kto" else 0

    def of_rows(self, method: FedAvg) -> Ints:
        """Of each row in a step of this method: with a backward pass, two forward passes without one, or of a mixture
        of M adapters M passes of both kinds.
        """
        if method.changes("probe"):
            return 2 * (self.forward + self.prepared)
        mixed = num_mixed(method)
        looks = self.forward if mixed > 1 else 0
        found: Ints = mixed * (looks + self.forward + self.backward) + self.prepared
        return found

    def of_task(self, method: FedAvg, task: ClientTask, taken: int | None = None) -> int:
        """Of the local steps of a client, or of the first `taken` ones where it failed then."""
        steps = [
            (phase.method, task.steps[number]) for phase in method.phases(len(task.steps)) for number in phase.steps
        ]
        kinds: dict[tuple[bool, int], Ints] = {}
        total = 0
        for of_phase, step in steps[:taken]:
            kind = of_phase.changes("probe"), num_mixed(of_phase)
            each = kinds[kind] if kind in kinds else kinds.setdefault(kind, self.of_rows(of_phase))
            numbers = [task.row_numbers[row] for micro in step for row in micro]
            total += int(each[numbers].sum())
        return total


def training_flops(run: TrainingRun, method: FedAvg, flops: ModelFlops, rounds: Sequence[Mapping[str, Any]]) -> int:
    """FLOP of the steps that the lines of rounds.jsonl tell of, and of the reference of preferences, once.

    `run` has a plain method and a folder without states: tasks are asked for their rows alone.
    """
    local, part = run.config.local, run.clients.tokens["train"]
    of = StepFlops(flops, RowSizes.of(part, local), local)
    total = int(of.base_forward.sum()) if needs_reference(local) else 0
    for record in rounds:
        logged = dict(zip(record["clients"], zip(record["steps"], record["failures"], strict=True), strict=True))
        for task in _tasks(run, method, record):
            steps, failure = logged[task.client]
            if failure != DROPPED_OUT:  # a failed client took one more step, whose loss is not in the log
                total += of.of_task(method, task, None if failure is None else steps + 1)
    return total


def _tasks(run: TrainingRun, method: FedAvg, record: Mapping[str, Any]) -> Iterator[ClientTask]:
    """The tasks of a round; under a clock each client has the steps of the model that it began from."""
    round_num = record["round"] - 1
    if method.pooled:
        yield pooled_task(run, Server({}, round=round_num), run.chosen[round_num])
        return
    ages = record.get("staleness", [0] * len(record["clients"]))
    for age in sorted({tau for tau in ages if tau is not None}):
        began = [client for client, tau in zip(record["clients"], ages, strict=True) if tau == age]
        yield from tasks_of_round(run, Server({}, round=round_num - age), began)
