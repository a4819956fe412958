"""The clients of a run: their tokenised rows, found by client index, and what is known of each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json
from fedllm_bench.data.manifest import Part, Split
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.published import ORDER_FILE
from fedllm_bench.data.rows import Row
from fedllm_bench.data.tokens import TokenPart

USERS = 3  # purpose of the random stream; 0 to 2 are those of training


@dataclass(frozen=True)
class Clients:
    """A split with its tokens. Clients are numbered in the order of the manifest, sorted by id.

    With a `shuffle_seed` training rows are dealt to the clients at random, each keeping its number of rows: a
    control without real users. Held-out rows stay with their users.
    """

    split: Split
    tokens: Mapping[str, TokenPart | PairPart]
    shuffle_seed: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(client.id for client in self.split.manifest.clients)

    def rows(self, part: Part) -> Sequence[Row]:
        """The rows of one part, of whatever task the split is."""
        return self.split.task_rows(part)

    @cached_property
    def file_order(self) -> tuple[int, ...]:
        """The index of each client in the order of the published file; () for a split that was not made of it."""
        if ORDER_FILE not in self.split.manifest.files:
            return ()
        place = {client: index for index, client in enumerate(self.ids)}
        listed = read_json(self.split.folder / ORDER_FILE)
        order = tuple(place[client] for client in listed if client in place)  # one whose rows were all unusable is none
        if sorted(order) != list(range(len(self))):
            raise UserError(f"{self.split.folder / ORDER_FILE} does not name every client once; get the split again")
        return order

    @cached_property
    def train_rows(self) -> dict[str, tuple[int, ...]]:
        """Row numbers into ``tokens["train"]`` by client id; a client whose rows were all skipped has none."""
        rows = self.rows("train")
        found: dict[str, list[int]] = {client: [] for client in self.ids}
        for number, row in enumerate(self.tokens["train"].rows):
            found[rows[int(row)].client_id].append(number)
        own = {client: tuple(numbers) for client, numbers in found.items()}
        return own if self.shuffle_seed is None else _dealt(own, self.shuffle_seed)


def _dealt(own: Mapping[str, Sequence[int]], seed: int) -> dict[str, tuple[int, ...]]:
    """The same rows at random, as many for each client as before."""
    pool = [number for numbers in own.values() for number in numbers]
    order = iter(np.random.default_rng([USERS, seed]).permutation(pool).tolist())
    return {client: tuple(sorted(islice(order, len(numbers)))) for client, numbers in own.items()}


def sample_by_size(sizes: Sequence[int], allowed: Sequence[int], count: int) -> list[int]:
    """`count` of the `allowed` clients, evenly spaced by size from the smallest to the largest; 0 means all."""
    ordered = sorted(allowed, key=lambda client: (sizes[client], client))
    if not count or count >= len(ordered):
        return sorted(allowed)
    last = len(ordered) - 1
    places = {round(i * last / max(count - 1, 1)) for i in range(count)}
    return sorted(ordered[place] for place in places)
