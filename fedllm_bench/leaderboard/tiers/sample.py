"""What a tier samples, and what it found."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FEWEST = 10  # of each file, where it has so many


@dataclass(frozen=True, kw_only=True)
class ItemSample:
    """A share of items by a hash of the seed and their name: the same seed samples the same ones."""

    seed: int
    share: float

    def of(self, names: Iterable[str]) -> list[str]:
        """At least FEWEST of the names, all where there are fewer, sorted."""
        every = sorted(set(names))
        count = min(len(every), max(FEWEST, math.ceil(self.share * len(every))))
        return sorted(sorted(every, key=self._place)[:count])

    def one(self, names: Iterable[str]) -> str:
        """One of them."""
        return min(names, key=self._place)

    def _place(self, name: str) -> str:
        return hashlib.sha256(f"{self.seed}\0{name}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made again: the ids that were sampled, what came out otherwise, and numbers for the record."""

    ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: Made) -> Made:
        return Made(
            ids=[*self.ids, *other.ids],
            problems=[*self.problems, *other.problems],
            details={**self.details, **other.details},
        )
