"""How many items, or seeds, would tell two sides apart: the power of the two-sided paired t test.

Cohen, 1988, Statistical Power Analysis, chapter 2. n paired differences with mean d and standard deviation s have
the effect size d_z = d / s, and t is noncentral with n - 1 degrees of freedom and noncentrality d_z sqrt(n). For
differences far from normal the numbers are approximate.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from fedllm_bench.scores.levels import SIGNIFICANCE

POWER = 0.8
MIDPOINTS = (np.arange(2000) + 0.5) / 2000  # of quantiles; the error of the mean is below 1e-5
LARGEST = 1e6  # an effect that two differences show, whatever the number of tests
MANY = 10_000_000  # a number of items beyond this is not worth naming


def power(effect: float, n: int, tests: int = 1) -> float:
    """The chance that n paired differences of effect size `effect` are told from 0 at the 5% level. n from 2.

    Of several `tests`, at 5% over all of them: that of the first step of Holm's correction.

    The mean over standard deviations s of the chance given s, in which the mean is normal; scipy's noncentral t
    gives NaN for some effects.
    """
    shift, limits = abs(effect) * math.sqrt(n), _limits(n, tests)
    return float(np.mean(special.ndtr(shift - limits) + special.ndtr(-limits - shift)))


@functools.lru_cache(maxsize=256)
def _limits(n: int, tests: int) -> NDArray[np.float64]:
    """How far from 0 the mean over its standard error must lie, at quantiles of the standard deviation that is seen."""
    s = np.sqrt(special.chdtri(n - 1, 1 - MIDPOINTS) / (n - 1))
    return np.asarray(special.stdtrit(n - 1, 1 - SIGNIFICANCE / tests / 2) * s)


def needed(effect: float) -> int | None:
    """The fewest paired differences with a power of 80%; None without an effect, or where they are beyond 10^7."""
    if not effect or not math.isfinite(effect):
        return None
    normal = float((special.ndtri(1 - SIGNIFICANCE / 2) + special.ndtri(POWER)) / effect) ** 2  # t needs about two more
    if normal > MANY:
        return None
    n = max(2, math.floor(normal))
    while power(effect, n) < POWER:
        n += 1
    return n


def smallest(n: int, sd: float | None, tests: int = 1) -> float | None:
    """The smallest true difference that n paired differences with this standard deviation show with a power of 80%.

    `tests` as in :func:`power`. None where there is none to name: below two, or where they are all equal.
    """
    effect = detectable(n, tests)
    return None if effect is None or not sd or not math.isfinite(sd) else effect * sd


@functools.lru_cache(maxsize=256)
def detectable(n: int, tests: int = 1) -> float | None:
    """The effect size that n paired differences show with a power of 80%; None below two. `tests` as in `power`."""
    if n < 2:
        return None
    return float(optimize.brentq(lambda effect: power(effect, n, tests) - POWER, 0.0, LARGEST, xtol=1e-9))
