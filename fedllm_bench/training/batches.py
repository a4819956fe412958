"""The batch plan: which rows a client trains on in each step, a function of (seed, round, client) alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.training.packing import Packing, spans_of

SCHEDULE, ROWS, POISSON = 0, 1, 3  # purposes of random streams: numpy takes [3, 4] and [3, 4, 0] for the same seed
NOT_COUNTED = -100
Tokens = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
StepPlan = tuple[tuple[int, ...], ...]  # the row numbers of each micro-batch of a step


@dataclass(frozen=True)
class Batch:
    """Sequences that go through the model together: ids and targets of the same shape.

    They are right-padded rows, shape (S, T), or lie one behind another in one row, shape (1, N), as `packing` says.
    A target is -100 where no loss is counted, which is so at the first token of each sequence: nothing predicts it.
    """

    ids: Tensor
    targets: Tensor
    packing: Packing | None = None

    @property
    def spans(self) -> tuple[int, ...]:
        """How many tokens each sequence takes among all of the batch, padding included."""
        return spans_of(self.ids, self.packing)

    def sequences_of(self, places_C: Tensor) -> Tensor:
        """The number of the sequence of each token, from its place among all tokens of the batch; shape (C,)."""
        return places_C // self.ids.shape[1] if self.packing is None else self.packing.sequences_of(places_C)


def choose_clients(seed: int, round_num: int, num_clients: int, per_round: int) -> list[int]:
    """The clients of a round, uniformly without replacement, sorted."""
    rng = np.random.default_rng([SCHEDULE, seed, round_num])
    return sorted(int(k) for k in rng.choice(num_clients, per_round, replace=False))


def poisson_clients(seed: int, round_num: int, num_clients: int, expected: int) -> list[int]:
    """The clients of a round, each chosen by itself with probability `expected` / `num_clients`; maybe nobody.

    McMahan et al., 2018 (arXiv:1710.06963), Algorithm 1. Where the guarantee counts, `seed` must be secret.
    """
    rng = np.random.default_rng([POISSON, seed, round_num])
    return np.flatnonzero(rng.random(num_clients) < expected / num_clients).tolist()


def released_clients(round_num: int, num_clients: int, per_round: int) -> list[int]:
    """The clients of a round in the code released with FedLLM-Bench (federated_learning/fed_global.py).

    The round is its seed, so that every run has the same schedule; Fed-Aya's first round is [2, 16, 24, 26].
    """
    return sorted(random.Random(round_num).sample(range(num_clients), per_round))


def schedule(config: RunConfig, num_clients: int, file_order: Sequence[int] = ()) -> list[list[int]]:
    """The clients of every round: a function of the seed, or the published one under variant "released".

    With privacy on, `clients_per_round` is the expected number. The published schedule counts clients in the order
    of the published file: `file_order` has the index of each of them, () where it is the order of ids.
    """
    federation = config.federation
    federation.check(num_clients)
    rounds, per_round = range(federation.rounds), federation.clients_per_round
    if config.variant == "released":
        order = file_order or range(num_clients)
        return [sorted(order[k] for k in released_clients(r, num_clients, per_round)) for r in rounds]
    choose = choose_clients if config.privacy.clip is None else poisson_clients
    return [choose(config.seed, round_num, num_clients, per_round) for round_num in rounds]


def plan_steps(
    seed: int, round_num: int, client: int, *, num_rows: int, steps: int, micro_batch: int, accumulation: int
) -> tuple[StepPlan, ...]:
    """Rows for `steps` steps: one random pass over the client's rows after another, without a gap."""
    if not steps:
        return ()
    rng = np.random.default_rng([ROWS, seed, round_num, client])
    needed = steps * accumulation * micro_batch
    passes = [rng.permutation(num_rows) for _ in range(-(-needed // num_rows))]
    order = np.concatenate(passes)[:needed].reshape(steps, accumulation, micro_batch)
    return tuple(tuple(tuple(int(i) for i in micro) for micro in step) for step in order)


def collate(rows: Sequence[TokenRow], device: torch.device, pad_id: int = 0, *, packed: bool = False) -> Batch:
    """Rows side by side, padded on the right to the longest; or `packed`, one behind another."""
    if packed:
        ids = np.concatenate([row.ids for row in rows])[None].astype(np.int64)
        targets = np.concatenate([_targets(row) for row in rows])[None]
        packing = Packing.of([len(row.ids) for row in rows], device)
        return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device), packing)
    length = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), length), pad_id, np.int64)
    targets = np.full((len(rows), length), NOT_COUNTED, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        targets[i, : len(row.ids)] = _targets(row)
    return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device))


def _targets(row: TokenRow) -> Tokens:
    targets = np.where(row.counted, row.ids, NOT_COUNTED).astype(np.int64)
    targets[:1] = NOT_COUNTED
    return targets
