"""Reading the columns of an upstream's rows, with a line that says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedllm_bench.common.errors import UserError

Row = Mapping[str, Any]
Rows = Any  # datasets.Dataset: the library is slow to import, and has no types of its own for rows


def remade(rows: Rows, change: Callable[[Row], Mapping[str, object]]) -> Rows:
    """A data set of what `change` makes of each row, in order."""
    return rows.from_list([dict(change(row)) for row in rows])


def split(rows: Rows, test_share: float, seed: int) -> Rows:
    """The parts "train" and "test", as `datasets` draws them. Raises a :class:`UserError` for too few rows."""
    if len(rows) < 2:
        raise UserError(f"too few rows ({len(rows)}) to take a share of {test_share:g} as questions; give at least 2")
    return rows.train_test_split(test_size=test_share, seed=seed)


def value(row: Row, name: str) -> Any:
    """A cell that may be empty. Raises a :class:`UserError` where the data set has no such column."""
    if name not in row:
        raise UserError(
            f"the data set has no column {name!r}, but {', '.join(map(repr, row))}: it was changed upstream, or is "
            "another set; use the one that the table of closed benchmarks names"
        )
    return row[name]


def text(row: Row, name: str) -> str:
    """A cell that must be text; "" is text. Raises a :class:`UserError`."""
    found = value(row, name)
    if not isinstance(found, str):
        raise UserError(f"column {name!r} holds {found!r} (a {type(found).__name__}), not text")
    return found


def part(row: Row, path: str) -> str:
    """A text inside a cell: "document.summary.text". Raises a :class:`UserError`."""
    *outer, last = path.split(".")
    for name in outer:
        row = value(row, name)
        if not isinstance(row, Mapping):
            raise UserError(f"column {path!r} has no parts, but holds {row!r}")
    return text(row, last)


def number(row: Row, name: str) -> float:
    """A cell that must be a number. Raises a :class:`UserError`."""
    found = value(row, name)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise UserError(f"column {name!r} holds {found!r} (a {type(found).__name__}), not a number")
    return float(found)


def one_of(row: Row, name: str, meanings: Mapping[Any, str]) -> str:
    """What a coded cell means. Raises a :class:`UserError` for a code that is not in `meanings`."""
    found = value(row, name)
    known = found if isinstance(found, (int, str)) else None
    if known not in meanings:
        raise UserError(f"column {name!r} holds {found!r}; it can be {', '.join(map(repr, meanings))}")
    return meanings[known]


def right_answer(row: Row, name: str, number: int, first: int = 0) -> int:
    """The place, from 0, of the right one of `number` answers, from a cell that counts from `first`."""
    found = value(row, name)
    is_whole = isinstance(found, int) and not isinstance(found, bool)
    if not is_whole or not first <= found < first + number:
        raise UserError(f"column {name!r} holds {found!r}; it can be {first} to {first + number - 1}")
    return int(found) - first


def letters(number: int) -> Sequence[str]:
    return [chr(ord("A") + place) for place in range(number)]
