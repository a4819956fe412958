"""The command in a process of its own that is forked from this one, which has loaded torch and transformers.

For tests that end processes many times: to load them anew takes longer than the rest of a tiny run. What a process says
goes to files. How the command is started from a shell, and what it makes of signals then, is in test_slow_kill.py.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from bench_runs import quick, quiet_environment

from fedllm_bench import cli


class Forked:
    """`fedllm-bench WORDS` with a cache of its own; `said` is the beginning of the names of two files.

    `first` is done before, in the new process.
    """

    def __init__(self, words: Sequence[str], cache: Path, said: Path, first: Callable[[], None] = lambda: None) -> None:
        import fedllm_bench.pipeline.stages  # noqa: F401  # loaded here, for all of them

        said.parent.mkdir(parents=True, exist_ok=True)
        self._said = tuple(said.with_name(f"{said.name}.{name}") for name in ("out", "err"))
        for path in self._said:
            path.write_text("")
        with quick():  # whatever is patched is patched in the new process too
            self._process = multiprocessing.get_context("fork").Process(
                target=_carry_out, args=(list(words), cache, self._said, first)
            )
            self._process.start()

    @property
    def out(self) -> str:
        return self._said[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._said[1].read_text(encoding="utf-8")

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """As of `Popen`: nothing is sent to a process that has ended."""
        if self.returncode is None and self._process.pid:
            os.kill(self._process.pid, signum)

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        assert self.returncode is not None, f"it is still at work after {timeout} s: {self.err}"
        return self.returncode


def _carry_out(words: list[str], cache: Path, said: tuple[Path, ...], first: Callable[[], None]) -> None:
    sys.stdout, sys.stderr = (_onto(number, path) for number, path in enumerate(said, start=1))
    for handler in logging.getLogger().handlers[:]:  # pytest's own
        logging.getLogger().removeHandler(handler)
    os.environ.update(quiet_environment(cache))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first()
    sys.exit(cli.main(words))


def _onto(number: int, path: Path) -> TextIO:
    """The file as descriptor `number`, and as a stream that holds nothing back."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, number)
    return os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8")
