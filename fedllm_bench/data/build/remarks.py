"""What a build saw in the raw rows and did not act on: lines for the terminal and the cards."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fedllm_bench.data.build.funnel import FunnelTally
from fedllm_bench.data.build.recipe import Recipe

MOST_NAMES = 8  # of files


def remarks(tally: FunnelTally, users: Iterable[str], recipe: Recipe, aside: Sequence[str]) -> Iterator[str]:
    """Of files laid `aside`, skipped rows, flags that rows do not state, and `users` with ids that look alike.

    Between them stands what the pipeline itself noted of rows.
    """
    if aside:
        more = f" and {len(aside) - MOST_NAMES} more" if len(aside) > MOST_NAMES else ""
        yield f"files: passed over {', '.join(aside[:MOST_NAMES])}{more}, which hold no raw rows in a known format"
    if tally.skipped:
        yield from tally.skipped.notes()
    for flag in recipe.drop_flagged:
        if unsaid := tally.unsaid[flag]:
            silent = f"{unsaid} of {tally.samples} raw rows do not state this flag (no such column, or a null)"
            yield f"{flag}: {silent}; they were not removed for it"
    yield from tally.noted.lines()
    if alike := count_alike(users):
        yield (
            f"user ids: {alike} differ from another one only in case, surrounding spaces or Unicode form; each is "
            "taken as a user of its own"
        )


def count_alike(users: Iterable[str]) -> int:
    """The number of ids that are equal to another one without case, surrounding spaces and Unicode form."""
    forms = Counter(unicodedata.normalize("NFKC", user).strip().casefold() for user in users)
    return sum(count for count in forms.values() if count > 1)
