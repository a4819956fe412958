"""The funnel: what each step of a build left, from the raw rows to the split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.data.build.bad_rows import Skipped
from fedllm_bench.data.build.noted import Noted
from fedllm_bench.data.build.recipe import Filter
from fedllm_bench.data.funnel_words import in_words
from fedllm_bench.data.manifest import FunnelStep


@dataclass(frozen=True, kw_only=True)
class FunnelTally:
    """Rows by file, rows stopped by each filter, and how far the best row of each user came.

    `standing`: the number of rows that passed every filter, or minus the number of filters still ahead.
    `values`: each user's usable rows by the column of the recipe's `per`; empty without one.
    `unsaid`: rows that do not say whether a flag is up. `skipped`: rows that could not be read; None if they stop.
    `places`: rows with a place among the upstream's training rows.
    """

    rows_by_file: Counter[str]
    stopped: tuple[int, ...]
    standing: dict[str, int]
    unsaid: Counter[str]
    skipped: Skipped | None = None
    noted: Noted = field(default_factory=Noted)
    values: Mapping[str, Counter[str]] = field(default_factory=dict)
    places: int = 0

    @property
    def samples(self) -> int:
        """The rows that could be read."""
        return self.rows_by_file.total() - (self.skipped.total if self.skipped else 0)


class Left(NamedTuple):
    """What is left after a step."""

    step: str
    rows: int
    clients: int
    reason: str


def left_by_filters(tally: FunnelTally, steps: Sequence[Filter]) -> Iterator[Left]:
    rows = tally.rows_by_file.total()
    yield Left("raw", rows, len(tally.standing), "rows read")
    if tally.skipped:
        rows = tally.samples
        yield Left("bad_rows", rows, len(tally.standing), tally.skipped.reason)
    for index, step in enumerate(steps):
        rows -= tally.stopped[index]
        clients = sum(standing > index - len(steps) for standing in tally.standing.values())
        yield Left(step.step, rows, clients, step.reason)


def refuse_empty(left: Sequence[Left], usable: Mapping[str, int], notes: Iterable[str] = ()) -> None:
    if left[-1].clients:
        return
    if not left[0].rows:
        raise UserError("nothing is left of 0 raw rows: the files hold no row at all")
    removed = [
        f"{now.step} {before.rows - now.rows} ({in_words(now.reason)})"
        for before, now in pairwise(left)
        if now.rows < before.rows
    ]
    largest = f"; the largest user has {max(usable.values())} usable rows" if usable else ""
    raise UserError(
        f"nothing is left of {counted(left[0].rows, 'raw row')}; removed by {', '.join(removed) or 'nothing'}{largest}"
        + "".join(f"; {note}" for note in notes)
    )


def funnel(left: Sequence[Left]) -> tuple[FunnelStep, ...]:
    return tuple(_funnel_step(before, now) for before, now in pairwise((left[0], *left)))


def _funnel_step(before: Left, now: Left) -> FunnelStep:
    return FunnelStep(
        step=now.step,
        rows_removed=before.rows - now.rows,
        rows_left=now.rows,
        clients_left=now.clients,
        reason=now.reason,
    )
