"""How many items, or seeds, would tell two sides apart: the power of the two-sided paired t test.

Cohen, 1988, Statistical Power Analysis, chapter 2. n paired differences with mean d and standard deviation s have
the effect size d_z = d / s, and t is noncentral with n - 1 degrees of freedom and noncentrality d_z sqrt(n). For
differences far from normal, or intervals by bootstrap, the numbers are approximate.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

ALPHA = 0.05
POWER = 0.8
MIDPOINTS = (np.arange(4000) + 0.5) / 4000  # of quantiles; the error of the mean is below 1e-5
MANY = 10_000_000  # a number of items beyond this is not worth naming


def power(effect: float, n: int) -> float:
    """The chance that n paired differences of effect size `effect` are told from 0 at the 5% level. n from 2.

    The mean over standard deviations s of the chance given s, in which the mean is normal; scipy's noncentral t
    gives NaN for many effects (nct.cdf(-4.3, 2, 7.9), for one).
    """
    shift = abs(effect) * math.sqrt(n)
    limit = stats.t.ppf(1 - ALPHA / 2, n - 1)
    s = np.sqrt(stats.chi2.ppf(MIDPOINTS, n - 1) / (n - 1))
    return float(np.mean(stats.norm.sf(limit * s - shift) + stats.norm.cdf(-limit * s - shift)))


def needed(effect: float) -> int | None:
    """The fewest paired differences with a power of 80%; None without an effect, or where they are beyond 10^7."""
    if not effect or not math.isfinite(effect):
        return None
    normal = ((stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)) / effect) ** 2  # t needs about two more
    if normal > MANY:
        return None
    n = max(2, math.floor(normal))
    while power(effect, n) < POWER:
        n += 1
    return n


def detectable(n: int) -> float | None:
    """The effect size that n paired differences show with a power of 80%; None below two."""
    if n < 2:
        return None
    return float(optimize.brentq(lambda effect: power(effect, n) - POWER, 0.0, 40.0))
