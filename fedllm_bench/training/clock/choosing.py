"""Which of the clients that can be asked are asked: `federation.sampler`. A function of (seed, version, call).

FederatedScope has the same three samplers (its module core.sampler). Its groups are gone through once before they are
dealt anew; here each call deals them, so that nothing is to be remembered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.config.clock.section import Sampler
from fedllm_bench.training.batches import SCHEDULE
from fedllm_bench.training.clock.devices import CLOCK, Floats

ASK = 3  # a part of the random stream of the clock, beside those of the devices
GROUPS = 10  # of clients that are alike in speed, as in FederatedScope
Clients = NDArray[np.int64]


def stream(seed: int, version: int, call: int) -> np.random.Generator:
    """The random numbers of a call; the first one for a version has those of a round without a clock."""
    return np.random.default_rng([CLOCK, ASK, seed, version, call] if call else [SCHEDULE, seed, version])


def choose(sampler: Sampler, pool: Clients, count: int, seconds: Floats, rng: np.random.Generator) -> list[int]:
    """`count` clients of the `pool` (sorted), without replacement, sorted.

    `seconds` (N,) are those of one row on each client's device, there and back.
    uniform: all alike. group: all from one group of clients that are alike in speed, where it has as many, else also
    from the next one of a random order. responsiveness: by weights 1 / sqrt(seconds).
    """
    if sampler == "group":
        return _of_groups(pool, count, seconds, rng)
    weights = None
    if sampler == "responsiveness":
        weights = 1 / np.sqrt(seconds[pool])
        weights = weights / weights.sum()
    return sorted(int(k) for k in rng.choice(pool, count, replace=False, p=weights))


def _of_groups(pool: Clients, count: int, seconds: Floats, rng: np.random.Generator) -> list[int]:
    places = np.empty(len(seconds), dtype=np.int64)
    places[np.argsort(seconds, kind="stable")] = np.arange(len(seconds))
    groups = places[pool] * GROUPS // len(seconds)  # of the clients of the pool
    chosen: list[int] = []
    for group in rng.permutation(GROUPS):
        own = pool[groups == group]
        chosen += rng.choice(own, min(count - len(chosen), len(own)), replace=False).tolist()
        if len(chosen) == count:
            break
    return sorted(chosen)
