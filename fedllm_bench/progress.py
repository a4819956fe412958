"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[Item], label: str, total: int, initial: int = 0) -> Iterator[Item]:
    """Yield `items` while showing how many of `total` are done; `initial` were done by an earlier run."""
    if sys.stderr.isatty():
        with logging_redirect_tqdm():
            yield from tqdm(items, desc=label, total=total, initial=initial, dynamic_ncols=True, leave=True)
    else:
        yield from _lines(items, label, total, initial)


def _lines(items: Iterable[Item], label: str, total: int, initial: int) -> Iterator[Item]:
    started = last = time.monotonic()
    done = initial
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            left = (now - started) / (done - initial) * (total - done)
            log.info("%s: %d of %d, about %.0f s left", label, done, total, left)
            last = now
    log.info("%s: %d of %d in %.1f s", label, done, total, time.monotonic() - started)
