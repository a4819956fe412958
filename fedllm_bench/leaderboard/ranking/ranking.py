"""From who is clearly better than whom to rank bands, and to one order over several metrics.

A band is 1 + the rows clearly better ... R - the rows clearly worse, of R. Rows that cannot be told apart have bands
that overlap: they share a rank. "Clearly better" is closed first (a over b and b over c is a over c), else that would
not hold. Over metrics: Borda's count, as in mteb, with half a point for a row that cannot be told apart, and never a
mean of unlike scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# R rows
Signs = NDArray[np.int8]  # (R, R): 1 where the row is clearly better than the column
Band = tuple[int, int]


def closed(signs: Signs) -> Signs:
    """With everything that follows from it. Rows that would be better than themselves cannot be told apart."""
    better = signs > 0
    for middle in range(len(better)):  # Warshall, 1962
        better = better | np.outer(better[:, middle], better[middle])
    better = better & ~better.T
    return better.astype(np.int8) - better.T.astype(np.int8)


def bands(signs: Signs) -> list[Band]:
    """(best rank, worst rank) of each row, from closed signs."""
    rows = len(signs)
    better, worse = (signs < 0).sum(axis=1), (signs > 0).sum(axis=1)
    return [(1 + int(above), rows - int(below)) for above, below in zip(better, worse, strict=True)]


def borda(all_signs: Sequence[Signs]) -> list[float]:
    """Points over metrics: for each metric and each other row 1 where clearly better, 1/2 where not told apart."""
    if not all_signs:
        return []
    rows = len(all_signs[0])
    points = sum((signs.sum(axis=1, dtype=np.int64) for signs in all_signs), start=np.zeros(rows, dtype=np.int64))
    return [float(point + len(all_signs) * (rows - 1)) / 2 for point in points]


def overall(all_signs: Sequence[Signs]) -> Signs:
    """A row is above another that it beats clearly on more metrics than the other beats it; closed.

    Borda's count is, but for a constant, half the sum of these margins over all other rows.
    """
    margins = sum((signs.astype(np.int64) for signs in all_signs), start=np.zeros_like(all_signs[0], dtype=np.int64))
    return closed(np.sign(margins).astype(np.int8))
