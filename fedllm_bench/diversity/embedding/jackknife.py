"""The index of heterogeneity from sums of features over cells, and its standard error by leaving clients out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_ROOM = 1e-5  # of 1 - B: below, all rows are one point but for rounding, and the index is 0


@dataclass(frozen=True)
class Cells:
    """The rows of one client in one stratum are a cell. Arrays run over cells, stratum by stratum.

    `sums`: of features of length 1, (cells, D); `counts`: rows; `stratum` and `client`: numbers.
    """

    sums: Doubles
    counts: Ints
    stratum: Ints
    client: Ints

    @property
    def index(self) -> float:
        gain = room = 0.0
        for some in self.strata():
            total = self.sums[some].sum(axis=0)
            own = (self.sums[some] ** 2).sum(axis=1)
            more = _gain_and_room(own, self.sums[some] @ total - own, self.counts[some])
            gain, room = gain + more[0], room + more[1]
        return gain / room if room > LEAST_ROOM * self.counts.sum() else 0.0

    def strata(self) -> Iterator[slice]:
        """The cells of each stratum."""
        ends = [*np.flatnonzero(np.diff(self.stratum)) + 1, len(self.stratum)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            yield slice(int(start), int(end))


def _gain_and_room(own: Doubles, across: Doubles, counts: Ints) -> tuple[float, float]:
    """Sums over rows of W - B and of 1 - B in one stratum: of rows whose client has another row there.

    `own`: |sum of features|^2 of each client, `across`: its product with the sum of all others.
    """
    rest = counts.sum() - counts
    several = (counts > 1) & (rest > 0)
    n = counts[several].astype(np.float64)
    within = (own[several] - n) / (n * (n - 1))
    between = across[several] / (n * rest[several])
    return float((n * (within - between)).sum()), float((n * (1 - between)).sum())


def standard_error(cells: Cells) -> float | None:
    """The delete-one jackknife over clients (Efron & Tibshirani, 1993, ch. 11), each with its rows in all strata.

    None where fewer than three clients are compared, or without one of them nothing is.
    """
    names, place = np.unique(cells.client, return_inverse=True)
    gains, rooms = np.zeros(len(names)), np.zeros(len(names))
    for some in cells.strata():
        whole, without = _left_out(cells.sums[some], cells.counts[some])
        gains, rooms = gains + whole[0], rooms + whole[1]
        np.add.at(gains, place[some], without[0] - whole[0])
        np.add.at(rooms, place[some], without[1] - whole[1])
    if len(names) < 3 or (rooms <= LEAST_ROOM * cells.counts.sum()).any():
        return None
    values = gains / rooms
    return float(np.sqrt((len(names) - 1) * values.var()))


def _left_out(sums: Doubles, counts: Ints) -> tuple[tuple[float, float], tuple[Doubles, Doubles]]:
    """Gain and room of a stratum, and what they are without each of its clients in turn."""
    products = sums @ sums.T
    own = np.diag(products)
    across = products.sum(axis=1) - own
    whole = _gain_and_room(own, across, counts)
    gains, rooms = np.zeros(len(counts)), np.zeros(len(counts))
    for out in range(len(counts)):
        left = np.arange(len(counts)) != out
        gains[out], rooms[out] = _gain_and_room(own[left], (across - products[out])[left], counts[left])
    return whole, (gains, rooms)
