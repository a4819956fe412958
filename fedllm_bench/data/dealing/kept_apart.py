"""Validation rows: a share of each client's training rows that nobody trains on, from which a run knows when to stop.

Which they are is a function of the seed, the client and its rows. They are no test rows: held-out rows are others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
KEPT_APART = 8  # purpose of the random stream


@dataclass(frozen=True)
class KeptApart:
    """`share` of each client's training rows. `never` are numbers of rows in the split that stay training rows."""

    share: float
    seed: int
    never: frozenset[int] = frozenset()

    def rows_of(self, client: int, rows: Sequence[int]) -> frozenset[int]:
        """Those of the client's rows, by their number in the split, that are kept apart."""
        free = [row for row in rows if row not in self.never]
        count = min(num_apart(len(rows), self.share), len(free))
        order = np.random.default_rng([KEPT_APART, self.seed, client]).permutation(len(free))[:count]
        return frozenset(free[place] for place in order.tolist())


def num_apart(num_rows: int, share: float) -> int:
    """How many of a client's rows are kept apart: the share, rounded, but at least one; none of a single row."""
    if not share or num_rows < 2:
        return 0
    return max(1, round(share * num_rows))


def kept_apart_of(own: Mapping[str, Sequence[int]], rows: Rows, apart: KeptApart) -> dict[str, frozenset[int]]:
    """Client -> those of its rows that are kept apart, by their number in the split.

    `own` are the numbers of rows among the tokens, `rows` has the number in the split of each of them: both answers of
    a vote have the same.
    """
    return {
        client_id: apart.rows_of(client, list(dict.fromkeys(int(rows[number]) for number in numbers)))
        for client, (client_id, numbers) in enumerate(own.items())
    }


def without(
    own: Mapping[str, Sequence[int]], rows: Rows, apart: Mapping[str, Collection[int]]
) -> dict[str, tuple[int, ...]]:
    """The rows of each client that are trained on."""
    return {
        client: tuple(number for number in numbers if int(rows[number]) not in apart[client])
        for client, numbers in own.items()
    }
