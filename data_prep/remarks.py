"""What a build saw in the raw rows and did not act on: lines for the terminal and the cards."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from .funnel import Tally
from .recipe import Recipe


def remarks(tally: Tally, users: Iterable[str], recipe: Recipe) -> Iterator[str]:
    """Of skipped rows, of flags that rows do not state, and of `users` with ids that look alike."""
    if tally.skipped:
        yield from tally.skipped.notes()
    for flag in recipe.drop_flagged:
        if unsaid := tally.unsaid[flag]:
            yield f"{flag}: {_part(unsaid, tally.samples)} no column of it, or a null in it, and stayed"
    if alike := count_alike(users):
        yield (
            f"user ids: {alike} differ from another one only in case, surrounding spaces or Unicode form; each is "
            "taken as a user of its own"
        )


def _part(some: int, rows: int) -> str:
    return f"all {rows} raw rows have" if some == rows else f"{some} of {rows} raw rows have"


def count_alike(users: Iterable[str]) -> int:
    """The number of ids that are equal to another one without case, surrounding spaces and Unicode form."""
    forms = Counter(unicodedata.normalize("NFKC", user).strip().casefold() for user in users)
    return sum(count for count in forms.values() if count > 1)
