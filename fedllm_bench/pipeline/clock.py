"""Wall time of the stages of a run, kept on disk so that a resumed run counts all its sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.common import files


@dataclass(frozen=True)
class Clock:
    path: Path

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, summed over all sessions that worked on the run."""
        found: dict[str, float] = files.read_json(self.path) if self.path.is_file() else {}
        return found

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage, also when it is left by an error or Ctrl-C."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - started
            files.write_json(self.path, {**self.seconds, name: round(spent, 3)})
