"""Progress of long work: a bar on a terminal, plain log lines elsewhere; none where nobody wants log lines.

The logger `fedllm_bench` decides: at level INFO, as the commands set it, progress is shown.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def shown(progress: bool) -> Iterator[None]:
    """Show progress on standard error inside the block, or no progress at all; afterwards all is as it was.

    Lines go to the caller's own handlers of `logging` where there are some. Warnings are never held back.
    """
    logger = logging.getLogger("fedllm_bench")
    before, own = logger.level, logging.StreamHandler()
    own.setFormatter(logging.Formatter("%(message)s"))
    is_alone = progress and not logger.hasHandlers()
    quiet = logging.WARNING if logger.getEffectiveLevel() < logging.WARNING else before
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO) if progress else quiet)
    if is_alone:
        logger.addHandler(own)
    try:
        yield
    finally:
        logger.removeHandler(own)
        logger.setLevel(before)


def told(progress: bool) -> Callable[[str], None]:
    """Who gets lines of progress one by one: standard error, or nobody."""

    def tell(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    return tell if progress else lambda line: None


def track(
    items: Iterable[Item], label: str, total: int, initial: int = 0, note: Callable[[], str] = str
) -> Iterator[Item]:
    """Yield `items` while showing how many of `total` are done; `initial` were done by an earlier run.

    `note` says what else to show, as the cost so far.
    """
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
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
