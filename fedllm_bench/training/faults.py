"""Injected faults: who of a round's clients drops out, and who does only part of the work.

Both are functions of (seed, round, client) alone, so that all methods of a seed meet the same faults, on any engine
and after any resume. One number is drawn for each kind of fault and compared with the fraction: a larger fraction
adds faults and removes none.

Partial work is that of FedProx's experiments (Li et al., 2020, arXiv:1812.06127, section 5.2), but that all stragglers
do the same fraction of their steps, where the paper draws one for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedllm_bench.config.run import Faults, RunConfig
from fedllm_bench.training.batches import StepPlan, schedule

FAULTS = 10  # purpose of the random stream; 0 to 3 are those of training and of the clients
DROPPED_OUT = "dropped out (faults.dropout)"


def draws(seed: int, round_num: int, client: int) -> tuple[float, float]:
    """Two uniform numbers in [0, 1): for dropping out and for straggling."""
    first, second = np.random.default_rng([FAULTS, seed, round_num, client]).random(2)
    return float(first), float(second)


def drops_out(faults: Faults, seed: int, round_num: int, client: int) -> bool:
    """Whether a chosen client does not answer in this round."""
    return faults.dropout > 0 and draws(seed, round_num, client)[0] < faults.dropout


def straggles(faults: Faults, seed: int, round_num: int, client: int) -> bool:
    """Whether a client that answers does only `faults.straggler_steps` of its steps."""
    return faults.stragglers > 0 and draws(seed, round_num, client)[1] < faults.stragglers


def steps_done(
    faults: Faults, seed: int, round_num: int, client: int, steps: tuple[StepPlan, ...]
) -> tuple[StepPlan, ...]:
    """The steps that a client does of those planned for it: all, or as a straggler the first ones, at least one."""
    if not straggles(faults, seed, round_num, client):
        return steps
    return steps[: max(1, round(faults.straggler_steps * len(steps)))]


def dropouts(config: RunConfig, round_num: int, chosen: Iterable[int]) -> frozenset[int]:
    """Those of the `chosen` clients of a round who do not answer."""
    return frozenset(client for client in chosen if drops_out(config.faults, config.seed, round_num, client))


def participants(
    config: RunConfig, num_clients: int, file_order: Sequence[int] = (), rounds: int | None = None
) -> frozenset[int]:
    """The clients who are chosen and answer in at least one of the first `rounds` rounds; None means all."""
    plan = enumerate(schedule(config, num_clients, file_order)[:rounds])
    return frozenset(k for round_num, chosen in plan for k in set(chosen) - dropouts(config, round_num, chosen))
