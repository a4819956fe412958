"""Raw rows that cannot be read: they stop a build, or are skipped and counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import part_of

NAMED = 3  # bad rows that are named one by one
ADVICE = "--bad-rows skip leaves such rows out and counts them"


class BadRow(UserError):
    """One row that cannot be read. `str()` says which and what it holds; `reason` is the same for all rows like it.

    Faults of a whole file (no such column, two columns of one name) are a plain :class:`UserError`: they always stop.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def bad_cell(number: int, reason: str, detail: str = "") -> BadRow:
    """A :class:`BadRow` for what one cell of row `number` holds."""
    return BadRow(f"row {number}: {reason}{detail}", reason)


Handle = Callable[[str, str, BadRow], None]  # called with the file's path, its name in records, and what is wrong


def stop(path: str, _: str, bad: BadRow) -> None:
    raise UserError(f"{path}, {bad}; {ADVICE}") from bad


@dataclass
class Skipped:
    """The tally of `--bad-rows skip`. Calling it counts a row."""

    reasons: Counter[str] = field(default_factory=Counter)
    by_file: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def __call__(self, _: str, name: str, bad: BadRow) -> None:
        self.reasons[bad.reason] += 1
        self.by_file[name] += 1
        if len(self.first) < NAMED:
            self.first.append(f"{name}, {bad}")

    @property
    def total(self) -> int:
        return self.reasons.total()

    @property
    def reason(self) -> str:
        """For the funnel: how many rows for which reason, in an order that does not follow that of the rows."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return f"cannot be read{': ' if ordered else ''}{', '.join(f'{count} ({reason})' for reason, count in ordered)}"

    def refuse_many(self, rows: int) -> None:
        """A :class:`UserError` where more than half of all rows are bad: then it is the columns that are wrong."""
        if 2 * self.total > rows:
            raise UserError(
                f"{part_of(self.total, rows, 'raw row')} cannot be read, more than half; the first is {self.first[0]}"
            )

    def notes(self) -> Iterator[str]:
        if self.first:
            more = self.total - len(self.first)
            others = f"; and {more} more" if more else ""
            yield f"bad_rows: {self.total} skipped: {'; '.join(self.first)}{others}"
