"""Peaks of memory of a program and of what it starts."""

from __future__ import annotations

import sys
import time

import psutil
import pytest

from fedllm_bench.benchmarks.perf import peaks

HOLD = "import time; held = bytearray(80_000_000); time.sleep(0.6)"


def test_a_peak_is_of_all_that_a_program_starts():
    alone = peaks.watched([sys.executable, "-c", f"{HOLD}; print('said')"])
    assert alone.output == "said\n"
    assert 8 * 10**7 < alone.peak < 1.4 * 10**8
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"
    twice = peaks.watched([sys.executable, "-c", f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', "
                           f"{both!r}]); held = bytearray(80_000_000); p.wait()"])  # fmt: skip
    assert twice.peak > 1.6 * 10**8  # the grandchild's and its own


def test_a_failed_program_is_no_number():
    with pytest.raises(RuntimeError, match="ended with 1: broken"):
        peaks.watched([sys.executable, "-c", "raise SystemExit('broken')"])


def test_what_takes_too_long_is_ended_with_all_that_it_started():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(77.25)'])"
    with pytest.raises(RuntimeError, match="took longer than 1 s"):
        peaks.watched([sys.executable, "-c", code], limit_seconds=1.0)
    time.sleep(0.2)
    left = [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(77.25)" in (p.info["cmdline"] or [""])[-1]]
    assert left == []
