"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

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


log = logging.getLogger(__name__)


class Meter:
    """`total` items, of which `initial` were done by an earlier session."""

    def __init__(self, label: str, total: int, initial: int) -> None:
        self.label, self.total, self.done, self.initial = label, total, initial, initial
        self.tokens = 0
        self.started = self.last = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, initial=self.initial, desc=self.label, unit="item", dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif error is None and self.done > self.initial:
            seconds = time.monotonic() - self.started
            log.info("%s: %d of %d in %.1f s, %s", self.label, self.done, self.total, seconds, self.rate)

    @property
    def rate(self) -> str:
        """New tokens a second, of this session."""
        return f"{self.tokens / max(time.monotonic() - self.started, 1e-9):,.0f} tokens/s"

    def add(self, items: int, tokens: int) -> None:
        """So many more items are done, and so many more tokens made."""
        self.done, self.tokens = self.done + items, self.tokens + tokens
        if self.bar is not None:
            self.bar.set_postfix_str(self.rate, refresh=False)
            self.bar.update(items)
        elif time.monotonic() - self.last >= SECONDS_BETWEEN_LINES and self.done < self.total:
            log.info("%s: %d of %d, %s%s", self.label, self.done, self.total, self.rate, self._left())
            self.last = time.monotonic()

    def _left(self) -> str:
        if self.done == self.initial:
            return ""
        seconds = (time.monotonic() - self.started) / (self.done - self.initial) * (self.total - self.done)
        return f", about {seconds:.0f} s left"
