"""How much more alike the rows of one client are than the rows of different clients: an index, and a permutation test.

    I = (W - B) / (1 - B)
    W   the kernel of a row and another row of its client, B of that row and a row of another client,
        each a mean over that client's rows, then over rows; both rows of a pair are always of one stratum

0 for clients that draw from one distribution, 1 where each client is a single point. W - B compares within strata as
MMD does (Gretton et al., 2012) and weighs clients by rows as PERMANOVA's sums of squares do (Anderson, 2001); the test
exchanges rows between the clients of a stratum, PERMANOVA's restricted permutation. docs/heterogeneity.md says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.common.progress import track
from fedllm_bench.diversity.embedding.jackknife import Cells, standard_error

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL = 0.05
TIE = 1e-6  # sums of float32 differ by this much: what is as near counts as reached, which can only raise p
BINS = 30


@dataclass(frozen=True)
class HeterogeneityIndex:
    """`value` is None where no stratum has two clients and a client with two rows; `null` are the permuted values."""

    value: float | None
    se: float | None
    null: Doubles
    num_strata: int
    num_strata_used: int
    num_rows_used: int
    num_clients_used: int
    stratified_by: tuple[str, ...]

    @property
    def p_value(self) -> float | None:
        """(1 + the number of permutations that reach the value) / (1 + permutations): exact (Phipson & Smyth, 2010)."""
        if self.value is None or not len(self.null):
            return None
        return (1 + int((self.null >= self.value - TIE).sum())) / (1 + len(self.null))

    def to_dict(self) -> dict[str, Any]:
        p_value = self.p_value
        return {
            "value": self.value,
            "se": self.se,
            "p_value": p_value,
            "permutations": len(self.null),
            "null": _spread_of(self.null),
            "strata": self.num_strata,
            "strata_used": self.num_strata_used,
            "rows_used": self.num_rows_used,
            "clients_used": self.num_clients_used,
            "rejected_at_0.05": p_value is not None and p_value <= LEVEL,
            "stratified_by": list(self.stratified_by),
        }


def _spread_of(null: Doubles) -> dict[str, Any]:
    if not len(null):
        return {"mean": None, "sd": None, "low": None, "high": None, "histogram": []}
    counts, edges = np.histogram(null, bins=BINS)
    low, high = np.quantile(null, [0.025, 0.975])
    return {
        "mean": float(null.mean()),
        "sd": float(null.std()),
        "low": float(low),
        "high": float(high),
        "histogram": [[float(a), float(b), int(n)] for a, b, n in zip(edges, edges[1:], counts, strict=False)],
    }


def number(labels: Sequence[Any]) -> Ints:
    """0, 1, ... for each label, in the order of the sorted labels."""
    place = {label: i for i, label in enumerate(sorted(set(labels)))}
    return np.fromiter((place[label] for label in labels), dtype=np.int64, count=len(labels))


def heterogeneity(
    features: Floats, clients: Ints, strata: Ints, *, permutations: int, seed: int, stratified_by: Sequence[str] = ()
) -> HeterogeneityIndex:
    """The index from features of length 1, (n, D), and each row's client and stratum, numbers from 0.

    A stratum without a second client, or without a client of two rows, compares nothing: its rows are left out and
    counted. The standard error is the jackknife's over clients.
    """
    layout = _Layout.of(clients, strata)
    value = se = None
    null: list[float] = []
    if len(layout.order):
        cells = layout.cells(features, layout.order)
        value, se = cells.index, standard_error(cells)
        trials = track(range(permutations), "permutations", permutations) if permutations else ()
        null = [layout.cells(features, layout.permuted(seed, trial)).index for trial in trials]
    return HeterogeneityIndex(
        value=value,
        se=se,
        null=np.array(null),
        num_strata=len(np.unique(strata)),
        num_strata_used=len(np.unique(layout.stratum)),
        num_rows_used=len(layout.order),
        num_clients_used=len(np.unique(layout.client)),
        stratified_by=tuple(stratified_by),
    )


@dataclass(frozen=True)
class _Layout:
    """The rows that are used, by stratum and client. A cell is the rows of one client in one stratum."""

    order: Ints  # places of rows, cell by cell, (rows,)
    stratum_of_row: Ints  # along `order`
    counts: Ints  # rows of each cell, (cells,)
    stratum: Ints  # of each cell
    client: Ints  # of each cell

    @classmethod
    def of(cls, clients: Ints, strata: Ints) -> _Layout:
        order = np.lexsort((clients, strata))
        pairs, counts = np.unique(np.stack([strata, clients]), axis=1, return_counts=True)
        num_cells = np.bincount(pairs[0], minlength=1)
        largest = np.zeros(len(num_cells), dtype=np.int64)
        np.maximum.at(largest, pairs[0], counts)
        used = (num_cells >= 2) & (largest >= 2)
        kept, rows = used[pairs[0]], order[used[strata[order]]]
        return cls(rows, strata[rows], counts[kept], pairs[0][kept], pairs[1][kept])

    @cached_property
    def starts(self) -> Ints:
        return np.concatenate([[0], np.cumsum(self.counts)])

    def permuted(self, seed: int, trial: int) -> Ints:
        """`order` with the rows of each stratum in random order: clients keep how many rows they have in each."""
        chance = np.random.default_rng([seed, 4, trial]).random(len(self.order))
        return self.order[np.lexsort((chance, self.stratum_of_row))]

    def cells(self, features: Floats, order: Ints) -> Cells:
        from scipy import sparse

        ones = np.ones(len(order), dtype=np.float32)
        member = sparse.csr_array((ones, order, self.starts), shape=(len(self.counts), len(features)))
        return Cells(np.asarray(member @ features, dtype=np.float64), self.counts, self.stratum, self.client)
