"""The clients of a run: their tokenised rows, found by client index, and what is known of each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_json
from fedllm_bench.data.dealing.kept_apart import KeptApart, kept_apart_of, without
from fedllm_bench.data.manifest import Part, Split
from fedllm_bench.data.pairs import AnyPart
from fedllm_bench.data.published import ORDER_FILE
from fedllm_bench.data.rows import Row

USERS, PARTING = 3, 5  # purposes of random streams; 0 to 2 are those of training, 4 that of swapped answers
MIXINGS = 4  # times that each rejected answer is exchanged for another at random


@dataclass(frozen=True)
class Clients:
    """A split with its tokens. Clients are numbered in the order of the manifest, sorted by id.

    With a `shuffle_seed` training rows are dealt to the clients at random, each keeping its number of rows: a
    control without real users. Held-out rows stay with their users.
    With a `parting_seed`, of training rows that are answers, each rejected one is dealt to another client than that of
    its vote (:func:`parted`).
    With `apart`, some training rows are trained on by nobody: they stay with their users, and the others are dealt.
    """

    split: Split
    tokens: Mapping[str, AnyPart]
    shuffle_seed: int | None = None
    parting_seed: int | None = None
    apart: KeptApart | None = None

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
        own = without(self._own, self.tokens["train"].rows, self.validation_rows) if self.apart else self._own
        if self.parting_seed is not None:
            return parted(own, self.parting_seed)
        return own if self.shuffle_seed is None else _dealt(own, self.shuffle_seed)

    @cached_property
    def validation_rows(self) -> dict[str, frozenset[int]]:
        """The training rows of each client that nobody trains on, by their number in the split."""
        if self.apart is None:
            return {client: frozenset() for client in self.ids}
        return kept_apart_of(self._own, self.tokens["train"].rows, self.apart)

    @cached_property
    def _own(self) -> dict[str, tuple[int, ...]]:
        """As `train_rows`, before any row is dealt or kept apart."""
        rows = self.rows("train")
        found: dict[str, list[int]] = {client: [] for client in self.ids}
        for number, row in enumerate(self.tokens["train"].rows):
            found[rows[int(row)].client_id].append(number)
        return {client: tuple(numbers) for client, numbers in found.items()}


def _dealt(own: Mapping[str, Sequence[int]], seed: int) -> dict[str, tuple[int, ...]]:
    """The same rows at random, as many for each client as before."""
    pool = [number for numbers in own.values() for number in numbers]
    order = iter(np.random.default_rng([USERS, seed]).permutation(pool).tolist())
    return {client: tuple(sorted(islice(order, len(numbers)))) for client, numbers in own.items()}


def parted(own: Mapping[str, Sequence[int]], seed: int) -> dict[str, tuple[int, ...]]:
    """The same answers, of which no client has both of a vote; each has as many good and as many bad ones as before.

    "Redistributed" votes, Section 4 of Federated KTO (arXiv:2502.14187). Numbers are those of
    :class:`fedllm_bench.data.pairs.AnswerPart`: even for chosen answers, odd for rejected ones.

    Raises a :class:`UserError` where one client has more than half of the votes.
    """
    givers = [client for client, numbers in own.items() for number in numbers if number % 2]
    bad = [number for numbers in own.values() for number in numbers if number % 2]
    most = max(Counter(givers).values(), default=0)
    if 2 * most > len(bad):
        raise UserError(
            f"data.split_pairs=true: one client has {most} of the {len(bad)} votes, so their answers cannot all go to "
            "others; give data.split_pairs=false"
        )
    order = [(place + most) % len(bad) for place in range(len(bad))]  # votes of a client lie together: never its own
    rng = np.random.default_rng([PARTING, seed])
    for _ in range(MIXINGS):
        for i, j in enumerate(rng.permutation(len(bad)).tolist()):
            if givers[i] != givers[order[j]] and givers[j] != givers[order[i]]:
                order[i], order[j] = order[j], order[i]
    given = iter(bad[place] for place in order)
    return {
        client: tuple(sorted([n for n in numbers if not n % 2] + [next(given) for n in numbers if n % 2]))
        for client, numbers in own.items()
    }


def sample_by_size(sizes: Sequence[int], allowed: Sequence[int], count: int) -> list[int]:
    """`count` of the `allowed` clients, evenly spaced by size from the smallest to the largest; 0 means all."""
    ordered = sorted(allowed, key=lambda client: (sizes[client], client))
    if not count or count >= len(ordered):
        return sorted(allowed)
    last = len(ordered) - 1
    places = {round(i * last / max(count - 1, 1)) for i in range(count)}
    return sorted(ordered[place] for place in places)
