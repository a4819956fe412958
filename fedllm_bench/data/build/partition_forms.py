"""The forms of a partition, as a recipe states them in text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.whole_numbers import whole_number

Over = Literal["language", "source", "topic"]  # what every row has; any other word is a column of the raw rows
ROWS, SEED = 20_000, 2023  # of OpenFedLLM's arguments: `dataset_sample` and `seed`

FORMS = (
    "user, language, column:NAME, iid:N (such as iid:20), dirichlet:ALPHA[:OVER[:N]] (such as dirichlet:0.5, "
    f"dirichlet:0.5:topic or dirichlet:0.5:category:3; OVER is {', '.join(get_args(Over))} or, with N clients, a "
    "column of the raw rows) or released:N[:ROWS[:SEED]]"
)


class Partition(NamedTuple):
    """A partition's kind, its number (0 where it has none), and what tells its rows apart.

    `clients`: how many there are to be; 0 where the rows or the users say it. `rows` and `seed` are of the kind
    `released` alone.
    """

    kind: str
    number: float = 0.0
    over: str = "language"
    clients: int = 0
    rows: int = 0
    seed: int = 0

    @property
    def column(self) -> str:
        """The column of the raw rows that it names; "" where it names none."""
        is_named = self.kind == "column" or (self.kind == "dirichlet" and self.over not in get_args(Over))
        return self.over if is_named else ""


def check_partition(text: str) -> Partition:
    """The partition that a recipe states; a :class:`UserError` for any other text.

    `parts:N` is of mixed splits alone, where it is made of other options: N clients of each part.
    """
    kind, *rest = text.split(":")
    found = None
    if text in ("user", "language"):
        found = Partition(kind)
    elif kind == "column":
        found = Partition(kind, over=":".join(rest)) if _is_name(":".join(rest)) else None
    elif kind == "parts" and len(rest) == 1:
        found = Partition(kind, clients=_count(rest[0])) if _count(rest[0]) else None
    elif kind == "iid" and len(rest) == 1:
        number = _count(rest[0])
        found = Partition(kind, number, clients=number) if number else None
    elif kind == "dirichlet" and rest:
        found = _dirichlet(rest)
    elif kind == "released" and 1 <= len(rest) <= 3:
        found = _released(rest)
    if found is None:
        raise UserError(f"partition={text[:100]!r} in the recipe; it is {FORMS}")
    return found


def _dirichlet(rest: Sequence[str]) -> Partition | None:
    """Of ALPHA, ALPHA:OVER or ALPHA:OVER:N; a column's name may hold colons, and needs N."""
    alpha = _positive(rest[0])
    if not alpha or len(rest) == 1:
        return Partition("dirichlet", alpha) if alpha else None
    if len(rest) == 2:
        return Partition("dirichlet", alpha, rest[1]) if rest[1] in get_args(Over) else None
    over, clients = ":".join(rest[1:-1]), _count(rest[-1])
    return Partition("dirichlet", alpha, over, clients) if clients and _is_name(over) else None


def _released(rest: Sequence[str]) -> Partition | None:
    numbers = [_count(word) for word in rest]
    clients, rows, seed = (*numbers, *(ROWS, SEED)[len(numbers) - 1 :])
    if rest[2:] == ["0"]:
        seed = 0
    elif not all(numbers):
        return None
    return Partition("released", clients=clients, rows=rows, seed=seed) if clients and rows else None


def normal_partition(text: str) -> str:
    """The one form of a partition that is written: one split, one hash.

    Language is what a Dirichlet partition is over unless it says otherwise.
    """
    if text.startswith("iid:"):
        return f"iid:{check_partition(text).clients}"
    if text.startswith("released:"):
        found = check_partition(text)
        return f"released:{found.clients}:{found.rows}:{found.seed}"
    is_short = text.startswith("dirichlet:") and text.count(":") == 2
    return text.removesuffix(":language") if is_short else text


def _is_name(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


def _count(text: str) -> int:
    """0 for what is no number of clients or rows."""
    return whole_number(text) or 0


def _positive(text: str) -> float:
    """0 for what is no positive finite number."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
