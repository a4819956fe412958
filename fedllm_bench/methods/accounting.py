"""How much privacy the rounds of a run spend: Google's dp-accounting, which is loaded when it is first needed.

A round is a Gaussian mechanism on a Poisson sample, and two data sets are neighbours when one has one client more.
The accountant convolves privacy loss distributions (Doroshenko et al., 2022, arXiv:2207.04380), rounded up on a grid,
so that what it gives is an upper bound: 7.04 where Renyi moments give 8.10 (8 of 38 clients, 30 rounds, z = 1).
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from fedllm_bench.common.errors import UserError

GRID = 1e-3  # of privacy losses; 1e-4 took seven times as long for at most 1.4% less epsilon
LEAST_NOISE = 0.2  # one round of all clients spends 30 then; with less, accounting takes seconds
NO_NOISE = 1e-3  # one round of all clients spends 500,000 then
TOLERANCE = 1e-4  # of the noise multiplier that is found


def accountant_name() -> str:
    return f"privacy loss distributions, dp-accounting {version('dp-accounting')}"


@cache
def spent_epsilon(noise_multiplier: float, delta: float, sampling_rate: float, rounds: int) -> float | None:
    """The epsilon at `delta` after `rounds` rounds; None with noise below NO_NOISE, where there is no guarantee."""
    if noise_multiplier < NO_NOISE:
        return None
    # losses grow as noise^-2: a fixed grid would take 20 GB at 1e-3
    accountant = _fresh(GRID * max(1.0, (LEAST_NOISE / noise_multiplier) ** 2))
    accountant.compose(_rounds(noise_multiplier, sampling_rate, rounds))
    return float(accountant.get_epsilon(delta))


@cache
def find_noise(epsilon: float, delta: float, sampling_rate: float, rounds: int) -> float:
    """The least noise multiplier, within TOLERANCE, with which all `rounds` rounds spend `epsilon` at most.

    Raises a :class:`UserError` for an epsilon that hardly any noise would do for.
    """
    from dp_accounting import LowerEndpointAndGuess, calibrate_dp_mechanism

    if (most := spent_epsilon(LEAST_NOISE, delta, sampling_rate, rounds) or 0.0) <= epsilon:
        raise UserError(
            f"privacy.epsilon={epsilon}: a noise multiplier of {LEAST_NOISE} spends only {most:.1f}, and neither "
            "protects anybody; give a smaller epsilon, or --set privacy.epsilon=none --set privacy.noise_multiplier=Z"
        )
    found = calibrate_dp_mechanism(
        _fresh,
        lambda noise_multiplier: _rounds(noise_multiplier, sampling_rate, rounds),
        epsilon,
        delta,
        LowerEndpointAndGuess(LEAST_NOISE, 2 * LEAST_NOISE),
        tol=TOLERANCE,
    )
    return float(found)


def _fresh(grid: float = GRID) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=grid)


def _rounds(noise_multiplier: float, sampling_rate: float, rounds: int) -> Any:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    return SelfComposedDpEvent(PoissonSampledDpEvent(sampling_rate, GaussianDpEvent(noise_multiplier)), rounds)
