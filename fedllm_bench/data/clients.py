"""The clients of a run: their tokenised rows, found by client index, and what is known of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import TokenPart


@dataclass(frozen=True)
class Clients:
    """A split with its tokens. Clients are numbered in the order of the manifest, sorted by id."""

    split: Split
    tokens: dict[str, TokenPart]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(client.id for client in self.split.manifest.clients)

    @cached_property
    def train_rows(self) -> dict[str, tuple[int, ...]]:
        """Row numbers into ``tokens["train"]`` by client id; a client whose rows were all skipped has none."""
        rows = self.split.rows("train")
        found: dict[str, list[int]] = {client: [] for client in self.ids}
        for number, row in enumerate(self.tokens["train"].rows):
            found[rows[int(row)].client_id].append(number)
        return {client: tuple(numbers) for client, numbers in found.items()}

    @cached_property
    def heldout(self) -> tuple[SftRow, ...]:
        """Held-out rows of the clients, then of unseen users."""
        return tuple(self.split.rows("heldout") + self.split.rows("unseen"))


def sample_by_size(sizes: Sequence[int], allowed: Sequence[int], count: int) -> list[int]:
    """`count` of the `allowed` clients, evenly spaced by size from the smallest to the largest; 0 means all."""
    ordered = sorted(allowed, key=lambda client: (sizes[client], client))
    if not count or count >= len(ordered):
        return sorted(allowed)
    last = len(ordered) - 1
    places = {round(i * last / max(count - 1, 1)) for i in range(count)}
    return sorted(ordered[place] for place in places)
