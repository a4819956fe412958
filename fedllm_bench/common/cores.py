"""The cores that this process was given, by its affinity and its control group, and how processes share them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fedllm_bench.common.free_memory import GROUPS, MOUNT, number_in, places_of_groups, text_of

PINNING = "FEDLLM_BENCH_PIN"  # "0": no process is kept on cores of its own
TASKS, LOADAVG = Path("/proc/self/task"), Path("/proc/loadavg")
LOOKS, SECONDS_BETWEEN_LOOKS = 5, 0.02


def given_cores() -> list[int]:
    """The numbers of the cores that this process may run on; [] where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def num_cores(groups: Path = GROUPS, mount: Path = MOUNT) -> int:
    """How many cores this process may use: those of its affinity, fewer where a control group has a quota of time."""
    cores = len(given_cores()) or os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(groups, mount))]))


def _quotas(groups: Path, mount: Path) -> Iterator[float]:
    """Of each group that holds this process, and limits its time: the cores that it may keep busy."""
    for folder, is_new in places_of_groups("cpu", groups, mount):
        if is_new:
            quota, _, period = text_of(folder / "cpu.max").strip().partition(" ")
        else:
            quota, period = (text_of(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if (most := number_in(quota)) and (of := number_in(period)):
            yield most / of


def groups_of_cores(threads: Sequence[int]) -> list[list[int]] | None:
    """The given cores dealt to processes of so many threads each, all of them, neighbours together.

    None where nobody is to be kept on cores of its own: there are more threads than cores, others use the cores too, or
    have a share in them by a quota of time, the system cannot do it, or FEDLLM_BENCH_PIN=0 says so. Beside other
    programs a process that may not leave its core waits for whoever took that one: three times as long was measured.
    """
    cores = given_cores()
    if os.environ.get(PINNING) == "0" or len(threads) < 2 or not sum(threads) <= len(cores) == num_cores():
        return None
    if others_at_work() > len(cores) - sum(threads):
        return None
    spare, number = len(cores) - sum(threads), len(threads)
    ends = [sum(threads[: i + 1]) + spare * (i + 1) // number for i in range(number)]
    return [cores[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def others_at_work(loadavg: Path = LOADAVG) -> int:
    """How many threads of other programs run or wait for a core, the least of a few looks; 0 where nobody says."""
    found = []
    for look in range(LOOKS):
        time.sleep(SECONDS_BETWEEN_LOOKS if look else 0)
        running = text_of(loadavg).split()[3:4]
        found.append((number_in(running[0].partition("/")[0]) or 1) - 1 if running else 0)  # without this one
    return min(found)


def pin(process: int, cores: Iterable[int]) -> None:
    """Keep a process that has just begun on these cores, with all that it will start."""
    with suppress(OSError):  # it has ended, or may not be kept there: then it runs where the system puts it
        os.sched_setaffinity(process, cores)


@contextmanager
def kept_on(cores: Sequence[int]) -> Iterator[None]:
    """Inside, this process runs on these cores alone, threads that are there already too; afterwards as before.

    Nothing changes for no cores.
    """
    before = given_cores()
    if cores:
        _pin_all(cores)
    try:
        yield
    finally:
        if cores:
            _pin_all(before)


def _pin_all(cores: Sequence[int]) -> None:
    for thread in TASKS.iterdir() if TASKS.is_dir() else ():
        pin(int(thread.name), cores)
