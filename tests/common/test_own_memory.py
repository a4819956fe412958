"""The memory of a process is its own, not that of the process that started it."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from fedllm_bench.common.own_memory import peak_bytes, resident_bytes

MIB = 2**20
TELL = "from fedllm_bench.common.own_memory import peak_bytes; print(peak_bytes())"
BIG = f"""
import subprocess, sys
held = bytearray(400 * {MIB})
held[::4096] = b"x" * len(held[::4096])
print(subprocess.run([sys.executable, "-c", {TELL!r}], capture_output=True, text=True, check=True).stdout)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="this system has no /proc/self/status")
def test_a_process_started_from_a_large_one_tells_its_own_peak():
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True, check=True)
    assert 1 * MIB < int(done.stdout) < 200 * MIB


def test_the_peak_counts_what_was_given_back():
    before = peak_bytes()
    size = before - resident_bytes() + 128 * MIB
    with mmap.mmap(-1, size) as held:  # pages of its own: an allocation may fit into a heap that is resident already
        for start in range(0, size, mmap.PAGESIZE):
            held[start] = 1
    assert peak_bytes() >= before + 64 * MIB
    assert resident_bytes() <= peak_bytes() - 64 * MIB


def test_fields_are_read_in_kibibytes(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert peak_bytes(status) == 2 * MIB
    assert resident_bytes(status) == 1 * MIB


def test_without_a_status_the_peak_is_that_of_getrusage(tmp_path):
    assert peak_bytes(tmp_path / "none") > 10 * MIB
    assert resident_bytes(tmp_path / "none") == 0
