"""Progress of long work and of answering: a bar on a terminal, plain log lines elsewhere; none where nobody wants it.

The logger `fedllm_bench` decides: at level INFO, as the commands set it, progress is shown.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

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


class Share:
    """How much of some work is done, as a share of `total` in any unit: a bar, else a line every ten seconds.

    With `is_brief` nothing is said of work that ends before the first line would come. `note` says which part of the
    work it is at, as in "round 2 of 5".
    """

    def __init__(self, label: str, total: float, *, is_brief: bool = False) -> None:
        self.label, self.total, self.is_brief = label, max(total, 1e-9), is_brief
        self.note, self.done, self.kept = "", 0.0, 0.0
        self.started = self.last = time.monotonic()
        self._bar: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
            self._stack.enter_context(logging_redirect_tqdm())
            shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            bar = tqdm(total=self.total, desc=self.label, bar_format=shape, dynamic_ncols=True, leave=not self.is_brief)
            self._bar = self._stack.enter_context(bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is None and error is None and (not self.is_brief or self.last > self.started):
            log.info("%s: done in %.1f s", self.label, time.monotonic() - self.started)
        self._stack.close()

    def add(self, amount: float, *, is_new: bool = True) -> None:
        """So much more is done; what is not new was done by an earlier session, and says nothing of the pace."""
        if is_new and 0 < self.kept == self.done:
            log.info("%s: %.0f%% was kept from an earlier session", self.label, 100 * self.kept / self.total)
        self.done += amount
        self.kept += 0.0 if is_new else amount
        if self._bar is not None:
            self._bar.initial, self._bar.postfix = self.kept, self.note
            self._bar.update(amount)
        elif time.monotonic() - self.last >= SECONDS_BETWEEN_LINES and self.done > self.kept:
            self.last = time.monotonic()
            left = (self.last - self.started) / (self.done - self.kept) * max(self.total - self.done, 0.0)
            where = f"{100 * self.done / self.total:.0f}%" + (f", {self.note}" if self.note else "")
            log.info("%s: %s, about %.0f s left", self.label, where, left)

    def reach(self, amount: float, *, is_new: bool) -> None:
        """All work up to `amount` is done."""
        if amount > self.done:
            self.add(amount - self.done, is_new=is_new)


class Meter:
    """`total` items, of which `initial` were done by an earlier session."""

    def __init__(self, label: str, total: int, initial: int) -> None:
        self.label, self.total, self.done, self.initial = label, total, initial, initial
        self.tokens = 0
        self.started = self.last = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
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
