"""Paired differences of seeds: Student's t, and Holm's correction over a table of metrics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from fedllm_bench.scores.intervals import is_equal
from fedllm_bench.scores.levels import UPPER


@dataclass(frozen=True, kw_only=True)
class PairedT:
    """The mean of paired differences with its 95% interval. Without one, `ci_low`, `ci_high` and `p_value` are None:
    there are fewer than two differences, or all are equal."""

    mean: float
    sd: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    n: int


def paired_t(differences: Sequence[float]) -> PairedT:
    """Raises ValueError without differences."""
    n, mean = len(differences), math.fsum(differences) / len(differences) if differences else math.nan
    if not n:
        raise ValueError("no differences")
    sd = statistics.stdev(differences) if n > 1 else None
    if sd is None or is_equal(sd, mean):  # equal but for rounding: t would be 0/0, or infinite
        return PairedT(mean=mean, sd=sd, ci_low=None, ci_high=None, p_value=None, n=n)
    error = sd / math.sqrt(n)
    half = float(stats.t.ppf(UPPER, n - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return PairedT(mean=mean, sd=sd, ci_low=mean - half, ci_high=mean + half, p_value=p_value, n=n)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values, in the order given; None stays None and counts as no test.

    Holm, 1979, A Simple Sequentially Rejective Multiple Test Procedure: the i-th smallest of m is multiplied by
    m - i + 1; none is smaller than one before it, or larger than 1.
    """
    ranked = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - rank) * p))
        adjusted[place] = largest
    return adjusted
