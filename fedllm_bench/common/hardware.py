"""What this machine has: a CUDA GPU, and how many cores this process may use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fedllm_bench.common.cores import num_cores

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))  # of x86, and of Arm


def has_cuda() -> bool:
    """Whether torch sees a CUDA GPU; torch is loaded only where a driver is there, since that takes seconds."""
    if not (shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists()):
        return False
    import torch

    return torch.cuda.is_available()


def has_bfloat16() -> bool:
    """Whether the CUDA GPU has arithmetic of this type, and not only an emulation of it."""
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_bfloat16_on_cpu(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies numbers of this type itself, by what Linux says of it; False where it is silent.

    Without such arithmetic bfloat16 is emulated, and slower than float32.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not BFLOAT16_FLAGS.isdisjoint(flags)


def computes_bfloat16() -> bool:
    """Whether what models run on here, a GPU or else the processor, has arithmetic of this type."""
    return has_bfloat16() if has_cuda() else has_bfloat16_on_cpu()


def num_threads() -> int:
    """The cores this process may use (:func:`num_cores`), fewer where OMP_NUM_THREADS says so.

    More threads than free cores wait for each other in spinning loops: two processes of two threads each on two cores
    took 10 times as long as with one thread each.
    """
    cores = num_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is one number for each nesting
    is_number = asked.isascii() and asked.isdigit() and len(asked) < 10
    return min(cores, int(asked)) if is_number and int(asked) else cores
