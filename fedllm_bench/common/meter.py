"""How far answering is: items and tokens a second, as a bar on a terminal and as plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from fedllm_bench.common.progress import SECONDS_BETWEEN_LINES

log = logging.getLogger(__name__)


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
