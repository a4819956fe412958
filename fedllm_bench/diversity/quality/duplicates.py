"""Rows that stand more than once, exactly or nearly, within a client and across clients.

Nearly: MinHash (Broder, 1997) of sequences of four words, as the pipelines count near duplicates
(fedllm_bench/data/build/near.py). Two rows are near where the estimated Jaccard similarity is 0.8 or more. Of a pair at
0.8, 99% are found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.common.progress import track
from fedllm_bench.data.build import near as minhash
from fedllm_bench.diversity.rows import DiversityRow

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Signatures = NDArray[np.uint32]
COMPARED_AT_ONCE = 2**24  # values of sketches: 16 MB of booleans
TEXTS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """For each row, shape (rows,): whether another row of its client, or a row of another client, is like it.

    Like: equal prompt, completion and rejected answer, or (near) almost so; what is equal is near too.
    """

    exact_within: Flags
    exact_across: Flags
    near_within: Flags
    near_across: Flags

    @property
    def exact(self) -> Flags:
        return self.exact_within | self.exact_across

    @property
    def near(self) -> Flags:
        return self.near_within | self.near_across


def find_duplicates(rows: Sequence[DiversityRow]) -> Duplicates:
    texts: dict[tuple[str, str, str], int] = {}
    clients: dict[str, int] = {}
    text_of = [texts.setdefault((row.prompt, row.completion, row.rejected), len(texts)) for row in rows]
    client_of = [clients.setdefault(row.client, len(clients)) for row in rows]
    having = _Having.of(text_of, client_of)
    within, across = _near(_signatures(list(texts)), having)
    exact_within, exact_across = having.counts[having.of_row] > 1, having.owners[text_of] > 1
    return Duplicates(
        exact_within=exact_within,
        exact_across=exact_across,
        near_within=exact_within | within[having.of_row],
        near_across=exact_across | across[having.of_row],
    )


@dataclass(frozen=True, kw_only=True)
class _Having:
    """Which client has which text: H pairs of both, in the order of texts, and of each row the pair it is of."""

    texts: Ints  # (H,)
    clients: Ints  # (H,)
    counts: Ints  # (H,): how often the client has the text
    of_row: Ints  # (rows,)

    @classmethod
    def of(cls, text_of: Sequence[int], client_of: Sequence[int]) -> _Having:
        both = np.array([text_of, client_of], np.int64).T.reshape(-1, 2)
        pairs, of_row, counts = np.unique(both, axis=0, return_inverse=True, return_counts=True)
        return cls(texts=pairs[:, 0], clients=pairs[:, 1], counts=counts, of_row=of_row.ravel())

    @cached_property
    def owners(self) -> Ints:
        """The number of clients that have each text, shape (texts,)."""
        return np.bincount(self.texts)

    @cached_property
    def starts(self) -> Ints:
        """Where the pairs of each text begin, shape (texts + 1,)."""
        return np.concatenate([[0], np.cumsum(self.owners)])


def _near(signatures: Signatures, having: _Having) -> tuple[Flags, Flags]:
    """For each pair of a text and a client, shape (H,): has this client, or another one, a different text near it?"""
    within, across = np.zeros((2, len(having.texts)), np.bool_)
    for members in _buckets(signatures):
        own = np.concatenate([np.arange(*having.starts[[text, text + 1]]) for text in members])
        rows = np.repeat(np.arange(len(members)), having.owners[members])
        names, columns = np.unique(having.clients[own], return_inverse=True)
        has = np.zeros((len(members), len(names)), np.float32)
        has[rows, columns] = 1
        for some in _chunks(len(members)):
            near_clients = _is_near(signatures[members], some) @ has > 0
            of_some = slice(*np.searchsorted(rows, [some.start, some.stop]))
            places = (rows[of_some] - some.start, columns[of_some])
            own_too = near_clients[places]
            within[own[of_some]] |= own_too
            across[own[of_some]] |= near_clients.sum(axis=1)[places[0]] > own_too
    return within, across


def _is_near(signatures: Signatures, some: slice) -> NDArray[np.float32]:
    """1 where one of `some` is near another of all, itself left out; shape (some, all)."""
    equal = (signatures[some, None] == signatures[None]).sum(axis=2)
    near: NDArray[np.float32] = (equal >= minhash.SIMILARITY * minhash.PERMUTATIONS).astype(np.float32)
    near[np.arange(len(near)), np.arange(some.start, some.stop)] = 0
    return near


def _signatures(texts: Sequence[tuple[str, str, str]]) -> Signatures:
    """Sketches of texts, shape (U, PERMUTATIONS)."""
    found = np.zeros((len(texts), minhash.PERMUTATIONS), np.uint32)
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    for start in track(starts, "look for near duplicates", len(starts)):
        for place, text in enumerate(texts[start : start + TEXTS_AT_ONCE], start):
            found[place] = minhash.sketch(*text).hashvalues
    return found


def _buckets(signatures: Signatures) -> Iterator[Ints]:
    """Texts that agree in a whole band: the only ones that need a look (locality-sensitive hashing)."""
    for band in range(minhash.BANDS):
        keys = signatures[:, band * minhash.ROWS_PER_BAND : (band + 1) * minhash.ROWS_PER_BAND]
        _, of_text, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(of_text, kind="stable")
        for members in np.split(order, np.cumsum(sizes)[:-1]):
            if len(members) > 1:
                yield members


def _chunks(count: int) -> Iterator[slice]:
    size = max(1, COMPARED_AT_ONCE // (count * minhash.PERMUTATIONS))
    for start in range(0, count, size):
        yield slice(start, min(count, start + size))
