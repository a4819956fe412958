"""The random directions that the suite draws for the client steps of `method_vectors`, as vectors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedllm_bench.common.directions import DIRECTION, direction, mixed

LIKE = {"w": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(3, 1, dtype=torch.float64)}
SEED, ROUND = 5, 2  # of `tiny.client_task`


def vector_of(seed: int) -> Tensor:
    return torch.cat([z.flatten() for _, z in direction(LIKE, seed)])


def moment(client: int, number: int) -> int:
    return mixed(SEED, ROUND, client, number, DIRECTION)


def drawn_direction(client: int, number: int) -> Tensor:
    """That of a step of FedMeZO."""
    return vector_of(moment(client, number))


def seed_directions(count: int) -> list[Tensor]:
    """Those of the seeds of FedKSeed."""
    return [vector_of(seed) for seed in range(count)]


def chosen_seed(client: int, number: int, count: int) -> int:
    """The seed that a step of FedKSeed draws."""
    return int(np.random.default_rng(moment(client, number)).choice(count))
