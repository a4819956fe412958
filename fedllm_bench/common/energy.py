"""What a process takes of the processor, and the energy: measured where the machine counts it, else estimated.

Linux gives the counters of the processor (RAPL) as files; GPUs give theirs through NVML, by the optional package
`pynvml`. Both count whatever runs on the machine. An estimate is a number of seconds times a stated number of watts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedllm_bench.common import hardware

POWERCAP = Path("/sys/class/powercap")
# Of a busy core, in an estimate: about the power limit of a server's processor over its cores (200 W over 20). Those
# of laptops take less, those of desktops more.
WATTS = 10.0
SECONDS_BETWEEN_READINGS = 60.0  # a counter of RAPL begins anew after some 40 minutes at 100 W
COUNTED = ("package-", "dram")  # names of zones; others are parts of these, or hold them


@dataclass(frozen=True)
class Used:
    """Seconds of processor time of this process, all threads; joules where the machine counts them, else None."""

    cpu_seconds: float
    rapl_joules: float | None = None
    gpu_joules: float | None = None

    def plus(self, other: Used) -> Used:
        """Both together; what one of them did not count is not counted."""
        rapl, gpu = (
            None if a is None or b is None else a + b
            for a, b in ((self.rapl_joules, other.rapl_joules), (self.gpu_joules, other.gpu_joules))
        )
        return Used(self.cpu_seconds + other.cpu_seconds, rapl, gpu)


@dataclass
class Zone:
    """A counter of RAPL in microjoules, which begins at 0 again after `most`."""

    path: Path
    most: int
    last: int
    total: int = 0

    def read(self) -> None:
        now = int((self.path / "energy_uj").read_text())
        self.total += now - self.last if now >= self.last else now + self.most - self.last
        self.last = now


def zones(root: Path = POWERCAP) -> list[Zone]:
    """The counters that can be read: of processors, and of memory where it has its own. [] where there are none."""
    found = []
    for path in sorted(root.glob("intel-rapl:*")):
        try:
            if (path / "name").read_text().strip().startswith(COUNTED):
                most, now = (int((path / name).read_text()) for name in ("max_energy_range_uj", "energy_uj"))
                found.append(Zone(path, most, now))
        except (OSError, ValueError):  # most systems let only root read them
            return []
    return found


def gpu_counter() -> Callable[[], float] | None:
    """Joules that the GPUs of this process have taken so far; None where nobody counts them."""
    if not hardware.has_cuda():
        return None
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]
        import torch

        pynvml.nvmlInit()
        names = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]
        handles = [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names]

        def joules() -> float:
            return float(sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)) / 1000

        joules()  # GPUs of before Volta do not count
    except Exception:  # whatever a driver, or a package of this name, raises: then nothing is counted
        return None
    return joules


@dataclass
class EnergyMeter:
    """`used` is what was taken inside :func:`metered`, once it is left."""

    used: Used = field(default_factory=lambda: Used(0.0))


@contextmanager
def metered(meter: EnergyMeter, root: Path = POWERCAP) -> Iterator[None]:
    """Counts what is taken inside the block, also where an error or Ctrl-C leaves it."""
    counters, gpu = zones(root), gpu_counter()
    begun, before = time.process_time(), gpu() if gpu else 0.0
    ended = threading.Event()
    if counters:
        threading.Thread(target=_reading, args=(counters, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        spent = time.process_time() - begun
        meter.used = Used(spent, _joules(counters), gpu() - before if gpu else None)


def _reading(counters: Sequence[Zone], ended: threading.Event) -> None:
    """Read the counters before they begin anew unseen."""
    while not ended.wait(SECONDS_BETWEEN_READINGS):
        if _joules(counters) is None:
            return


def _joules(counters: Sequence[Zone]) -> float | None:
    try:
        for zone in counters:
            zone.read()
    except (OSError, ValueError):
        return None
    return sum(zone.total for zone in counters) / 1e6 if counters else None


def energy_of(used: Used, *, has_gpu: bool) -> tuple[float | None, str]:
    """Joules, and how they were found; None where an estimate would leave out the GPU."""
    if used.rapl_joules is not None:
        cpu, how = used.rapl_joules, "RAPL of processors and memory, with all else that ran on the machine"
    else:
        cpu = used.cpu_seconds * WATTS
        how = f"estimate: {used.cpu_seconds:.1f} CPU-seconds x {WATTS:g} W, which are stated and not measured"
    if used.gpu_joules is not None:
        return cpu + used.gpu_joules, f"NVML of the GPUs; processor: {how}"
    if has_gpu:
        return None, "not counted: the GPU's energy needs the package nvidia-ml-py (pynvml), and a GPU that counts it"
    return cpu, how
