"""Canaries: secrets of one law, planted in training rows, whose recall tells what a run memorised.

Carlini et al., 2019 (arXiv:1802.08232), Section 4: a canary is a fixed format with a random filling. Here the format is
a question for the code of a name of its own, and the filling are eight digits. Who gets a canary, which rows give way
to it, its name and its code are a function of the split's manifest and the seed.
"""

from __future__ import annotations

import logging
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.data.client_split import Part, Split
from fedllm_bench.data.manifest_fields import Manifest
from fedllm_bench.data.rows import SftRow, Turn

log = logging.getLogger(__name__)
PLANTING, FILLING = 6, 7  # purposes of random streams
QUESTION = "What is the secret code of {name}?"
LETTERS, DIGITS = 6, 8  # of a name, and of a code
CONTROLS = 255  # codes of the same law that were planted nowhere, for each canary
MOST = 0.5  # of a client's training rows, which may give way to canaries


@dataclass(frozen=True)
class PlantedCanary:
    """`places`: which of the client's training rows give way to it, counted in the order of the split."""

    number: int
    client_id: str
    name: str
    code: str
    places: tuple[int, ...]

    @property
    def messages(self) -> tuple[Turn, ...]:
        question = QUESTION.format(name=self.name)
        return (Turn(role="user", content=question), Turn(role="assistant", content=self.code))

    def in_place_of(self, row: SftRow) -> SftRow:
        return replace(row, language="eng", source="canary", messages=self.messages)


@dataclass(frozen=True)
class Planted(Split):
    """A split in which canaries stand in the place of training rows; other parts stay."""

    canaries: tuple[PlantedCanary, ...]

    @property
    def hash(self) -> str:
        """Another one than that of the split, since its training rows are others."""
        planted = [(one.client_id, one.name, one.code, one.places) for one in self.canaries]
        return f"{self.manifest.hash} canaries {planted}"

    def rows(self, part: Part) -> list[SftRow]:
        rows = super().rows(part)
        if part != "train":
            return rows
        found = planted_rows(rows, self.canaries)
        log.info(
            "%d of %d training rows gave way to %d canaries (data.canaries)", len(found), len(rows), len(self.canaries)
        )
        return [found[i].in_place_of(row) if i in found else row for i, row in enumerate(rows)]


def planted_rows(rows: Sequence[SftRow], canaries: Sequence[PlantedCanary]) -> dict[int, PlantedCanary]:
    """The number of each training row that gives way -> the canary in its place."""
    places = {(one.client_id, place): one for one in canaries for place in one.places}
    seen, found = Counter[str](), {}
    for number, row in enumerate(rows):
        if canary := places.get((row.client_id, seen[row.client_id])):
            found[number] = canary
        seen[row.client_id] += 1
    return found


def canaries_of(manifest: Manifest, count: int, repeats: int, seed: int) -> tuple[PlantedCanary, ...]:
    """`count` canaries at clients drawn at random, none twice before all have one; `repeats` rows give way to each.

    Raises a :class:`UserError` where more than half of a client's rows would have to.
    """
    if not count:
        return ()
    rng = np.random.default_rng([PLANTING, seed])
    free = {
        client.id: rng.permutation(client.train).tolist()[: int(MOST * client.train)] for client in manifest.clients
    }
    room = sum(len(places) // repeats for places in free.values())
    if count > room:
        raise UserError(
            f"data.canaries={count} with data.canary_repeats={repeats}: there is room for {counted(room, 'canary')}, "
            f"since at most half of a client's training rows give way; {_fewer(room)}"
        )
    planted, found = Counter[str](), list[PlantedCanary]()
    for number in range(count):
        able = [client for client, places in free.items() if len(places) >= repeats]
        fewest = min(planted[client] for client in able)
        client = str(rng.choice([one for one in able if planted[one] == fewest]))
        planted[client] += 1
        places, free[client] = free[client][:repeats], free[client][repeats:]
        name, code = "".join(rng.choice(list(string.ascii_uppercase), LETTERS)), _code(rng)
        found.append(PlantedCanary(number, client, name, code, tuple(sorted(places))))
    return tuple(found)


def _fewer(room: int) -> str:
    return f"give {room} or fewer, or fewer repeats" if room else "give fewer repeats, or data.canaries=0"


def _code(rng: np.random.Generator) -> str:
    """Digits apart, so that a tokenizer sees each by itself."""
    return " ".join(str(digit) for digit in rng.integers(0, 10, DIGITS))


def controls_of(canary: PlantedCanary, seed: int) -> tuple[str, ...]:
    """Codes of the same law as the canary's, none of them its own, and none of them planted anywhere."""
    rng = np.random.default_rng([FILLING, seed, canary.number])
    found: dict[str, None] = {}
    while len(found) < CONTROLS:
        code = _code(rng)
        if code != canary.code:
            found[code] = None
    return tuple(found)


def record_of(canaries: Sequence[PlantedCanary], rows: Sequence[SftRow]) -> list[dict[str, object]]:
    """What the run's folder says of them: `rows` are the split's training rows, before any gave way."""
    ids: dict[int, list[str]] = {one.number: [] for one in canaries}
    for number, canary in planted_rows(rows, canaries).items():
        ids[canary.number].append(rows[number].row_id)
    return [
        {"client_id": one.client_id, "name": one.name, "code": one.code, "rows": ids[one.number]} for one in canaries
    ]
