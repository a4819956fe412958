"""The one rule for the 95% interval of a mean over clients, questions or pairs: a pure function of the values.

N values. An estimator that is no plain mean (a ratio, a perplexity, the worst tenth) comes here as its pseudo-values,
which vary as the estimate does. docs/statistics.md has the rule in words, and how often its intervals cover.

t_skew  Student's t, with each limit moved outwards to that of Hall's transformation where that one lies further out.
        Student's t covers too rarely where values are skewed, Hall's where they are symmetric with heavy tails.
        Hall, 1992, On the removal of skewness by transformation (J. R. Statist. Soc. B 54).
share   Of shares of items that are 0 or 1: a binomial interval for as many independent items as would vary alike
        (Korn and Graubard, 1998, Confidence intervals for proportions with small expected number of positive counts),
        halfway between that of Clopper and Pearson, which covers too often, and that of Jeffreys, too rarely.
exact   All values are equal, on a scale with two ends: at most 1 - 0.025^(1/N) of what may still come lies elsewhere
        (Clopper and Pearson, 1934), and at worst at an end.
none    What nothing is known of; `reason` says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.95
UPPER = (1 + LEVEL) / 2
NO_WIDTH = 1e-12  # a spread below this part of the mean is rounding: the values are equal
SMALL_SKEW = 1e-6  # below it the formula of Hall's limit loses its digits, and its first order is as good

# N values; "..." stands for pairs of rows of a board
Array = NDArray[np.float64]
Scale = tuple[float, float]  # the lowest and the highest possible value
Kind = Literal["t_skew", "share", "exact", "none"]


@dataclass(frozen=True, kw_only=True)
class IntervalLimits:
    """`low` and `high` are None where `kind` is "none"; then `reason` says why."""

    low: float | None = None
    high: float | None = None
    kind: Kind = "none"
    reason: str = ""


def of_mean(values: Array, *, freedom: float, scale: Scale | None = None) -> IntervalLimits:
    """The interval of the mean of `values`, shape (N,); within `scale`, where that is known."""
    n = len(values)
    if n < 2:
        return IntervalLimits(reason="one value does not show how much values vary" if n else "there are no values")
    mean, spread = float(values.mean()), values - values.mean()
    if is_equal(np.sqrt((spread**2).mean()), mean):
        return of_equal(mean, n, scale, counted=min(n, freedom + 1))
    below, above = reach((spread**2).sum() / (n - 1), (spread**3).mean(), n, freedom)
    return within(IntervalLimits(low=mean - float(below), high=mean + float(above), kind="t_skew"), scale)


def is_equal(spread: Array | float, mean: Array | float) -> bool:
    return bool(spread <= NO_WIDTH * max(1.0, abs(float(mean))))


def within(found: IntervalLimits, scale: Scale | None) -> IntervalLimits:
    """Student's t knows of no ends."""
    if scale is None or found.low is None or found.high is None:
        return found
    return IntervalLimits(low=max(found.low, scale[0]), high=min(found.high, scale[1]), kind=found.kind)


def reach(variance: Array, third: Array, n: int, freedom: float) -> tuple[Array, Array]:
    """How far below and above the mean of n values its limits lie, of any shape.

    `variance` has the divisor n - 1; `third` is the mean of the third powers of the distances to the mean.
    """
    t = float(special.stdtrit(freedom, UPPER))
    error = np.sqrt(variance / n)
    moment = np.where(variance > 0, variance, 1.0) * (n - 1) / n
    skew = third / moment**1.5 / math.sqrt(n) * (math.sqrt(n * (n - 1)) / (n - 2) if n > 2 else 0.0)
    return error * np.maximum(t, _hall(skew, t)), error * np.maximum(t, -_hall(skew, -t))


def _hall(skew: Array, z: float) -> Array:
    """Where Hall's transformed t equals z: T + b T^2 / 3 + b^2 T^3 / 27 + b / 6 = z, with b = skewness / sqrt(n)."""
    small = np.abs(skew) < SMALL_SKEW
    b = np.where(small, 1.0, skew)
    return np.where(small, z - skew / 6 - skew * z**2 / 3, 3 / b * (np.cbrt(1 + b * (z - b / 6)) - 1))


def of_equal(value: float, n: int, scale: Scale | None, *, counted: float) -> IntervalLimits:
    """The interval where all n values are `value`, and count as much as `counted` of equal weight."""
    if scale is None:
        return IntervalLimits(reason=f"all {n} values are equal, and how far others may lie is unknown")
    elsewhere = most_elsewhere(counted)
    low, high = value - elsewhere * (value - scale[0]), value + elsewhere * (scale[1] - value)
    return within(IntervalLimits(low=low, high=high, kind="exact"), scale)


def most_elsewhere(n: float) -> float:
    """The largest share of other values under which n equal ones are not yet rarer than 2.5%."""
    return float(1 - (1 - UPPER) ** (1 / n))


def of_share(means: Array, parts: Array, num_items: Array) -> IntervalLimits:
    """The interval of sum(parts * means), where each mean is a share of `num_items` items that are 0 or 1.

    All of shape (N,); `parts` sum to 1. N from 2.
    """
    share, n = float(parts @ means), len(means)
    if is_equal(np.ptp(means), share) and (share < NO_WIDTH or share > 1 - NO_WIDTH):
        return of_equal(float(round(share)), n, (0.0, 1.0), counted=1 / float((parts**2).sum()))
    low, high = _binomial(share, _independent_items(share, means, parts, num_items))
    return IntervalLimits(low=low, high=high, kind="share")


def _independent_items(share: float, means: Array, parts: Array, num_items: Array) -> float:
    """How many independent items would vary as the share does: at least the clusters, at most the items.

    Clusters count as so many of equal weight, (sum w)^2 / sum w^2 (Kish, 1965): a few heavy ones say little of others.
    """
    fewest, most = 1 / float((parts**2).sum()), 1 / float((parts**2 / num_items).sum())
    freedom = max(1.0, fewest - 1)
    variance = float((parts**2 * (means - share) ** 2).sum()) * (freedom + 1) / freedom
    if variance <= NO_WIDTH**2:
        return max(fewest, most)
    smaller = (special.ndtri(UPPER) / special.stdtrit(freedom, UPPER)) ** 2  # the variance is of few clusters only
    return float(np.clip(share * (1 - share) / variance * smaller, fewest, max(fewest, most)))


def _binomial(share: float, n: float) -> tuple[float, float]:
    """Between the limits of Clopper and Pearson and those of Jeffreys. 0 < share < 1."""
    hits, others = share * n, (1 - share) * n
    low = special.betaincinv(hits, others + 1, 1 - UPPER) + special.betaincinv(hits + 0.5, others + 0.5, 1 - UPPER)
    high = special.betaincinv(hits + 1, others, UPPER) + special.betaincinv(hits + 0.5, others + 0.5, UPPER)
    # of far less than one hit, or one other item, both limits of Jeffreys lie on one side of the share
    return min(float(low / 2), share), max(float(high / 2), share)
