"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def track(
    items: Iterable[Item], label: str, total: int, initial: int = 0, note: Callable[[], str] = str
) -> Iterator[Item]:
    """Yield `items` while showing how many of `total` are done; `initial` were done by an earlier run.

    `note` says what else to show, as the cost so far.
    """
    if sys.stderr.isatty():
        with logging_redirect_tqdm():
            bar = tqdm(items, desc=label, total=total, initial=initial, dynamic_ncols=True, leave=True)
            for item in bar:
                bar.set_postfix_str(note(), refresh=False)
                yield item
    else:
        yield from _lines(items, label, total, initial, note)


def _lines(
    items: Iterable[Item], label: str, total: int, initial: int, note: Callable[[], str] = str
) -> Iterator[Item]:
    started = last = time.monotonic()
    done = initial
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            left = (now - started) / (done - initial) * (total - done)
            more = f", {note()}" if note() else ""
            log.info("%s: %d of %d, about %.0f s left%s", label, done, total, left, more)
            last = now
    log.info("%s: %d of %d in %.1f s", label, done, total, time.monotonic() - started)
