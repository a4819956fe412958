"""Ctrl-C and SIGTERM: the first one ends training after the block of clients (or scoring after the batch) in work, the
second one at once.

Handlers belong to the main thread; elsewhere, and where a signal was ignored before (a background job of a script
inherits SIGINT so), nothing is changed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = "\nstopping after the clients, or the batch of scores, in work now; once more stops at once\n"


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; what is done is kept."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"{signal.Signals(signum).name}: what is done is kept; call it again to go on")
        self.signum = signum


def exit_code(error: KeyboardInterrupt) -> int:
    """As shells have it: 130 after SIGINT, 143 after SIGTERM."""
    return 128 + (error.signum if isinstance(error, Interrupted) else signal.SIGINT)


def is_of_user(error: BaseException) -> bool:
    """Whether a signal raised it: by a handler of this module, or by Python's own, where that one is in place."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    return isinstance(error, Interrupted) or signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Give both signals to `handler` inside the block."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        before = {signum: old for signum, old in before.items() if old not in (signal.SIG_IGN, None)}
    for signum in before:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


@contextmanager
def at_once() -> Iterator[None]:
    """Both signals raise :class:`Interrupted` inside the block, wherever it is."""

    def handler(signum: int, frame: Any) -> None:
        raise Interrupted(signum)

    with handled(handler):
        yield


@dataclass
class Stop:
    """Whether a signal has come; who works on something long asks at places where it is good to stop."""

    signum: int | None = None

    @property
    def asked(self) -> bool:
        return self.signum is not None

    def check(self) -> None:
        """Raise :class:`Interrupted` where a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextmanager
def deferred() -> Iterator[Stop]:
    """Inside the block the first signal is only noted; a second one raises :class:`Interrupted` at once."""
    stop = Stop()

    def handler(signum: int, frame: Any) -> None:
        stop.check()
        stop.signum = signum
        os.write(2, STOPPING.encode())  # not through Python's stream, in the middle of whose write we may be

    with handled(handler):
        yield stop
