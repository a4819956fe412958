"""Wall time and energy of the stages of a run, kept on disk, so that a resumed run counts all its sessions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.energy import EnergyMeter, Used, metered

ENERGY = "energy.json"
OF_OTHERS = ("local baseline",)  # stages in which another run is at work, which counts for itself


@dataclass(frozen=True)
class Clock:
    """`path`: seconds.json of the run's folder; what the stages take beside time lies next to it."""

    path: Path

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, summed over all sessions that worked on the run; without those of a changed file."""
        found = files.read_made(self.path)
        is_whole = isinstance(found, dict) and all(map(_is_amount, found.values()))
        return found if is_whole else {}

    @property
    def used(self) -> Used | None:
        """What the run's own stages took, in all sessions; None where a session of an older version did not count, or
        energy.json was changed.
        """
        found = self._used
        if self.seconds.keys() - found.keys():
            return None
        own = [used for stage, used in found.items() if stage not in OF_OTHERS]
        return reduce(Used.plus, own) if own else None

    @property
    def _used(self) -> dict[str, Used]:
        found = files.read_made(self.path.with_name(ENERGY))
        is_whole = isinstance(found, dict) and all(map(_is_used, found.values()))
        return {stage: Used(**values) for stage, values in found.items()} if is_whole else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the block takes to the stage, also when it is left by an error or Ctrl-C."""
        started, meter = time.perf_counter(), EnergyMeter()
        try:
            with metered(meter):
                yield
        finally:
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self._add(name, meter.used)
            files.write_json(self.path, {**self.seconds, name: round(spent, 3)})

    def _add(self, name: str, used: Used) -> None:
        found = self._used
        if name in found or name not in self.seconds:  # else a session of before did not count it
            found[name] = found[name].plus(used) if name in found else used
            values = {stage: asdict(each) for stage, each in found.items()}
            files.write_json(self.path.with_name(ENERGY), values)


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_used(values: Any) -> bool:
    """Whether these are the fields of `Used`, of which only the first is always there."""
    if not isinstance(values, dict) or values.keys() != {field.name for field in fields(Used)}:
        return False
    return _is_amount(values["cpu_seconds"]) and all(value is None or _is_amount(value) for value in values.values())
