"""Energy: measured where the machine counts it, else an estimate that says what it is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedllm_bench.common import energy
from fedllm_bench.common.energy import WATTS, EnergyMeter, Used, energy_of, metered, zones


def zone(root: Path, number: str, name: str, joules: float, most: float = 100.0) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{int(most * 1e6)}\n")
    put(folder, joules)
    return folder


def put(folder: Path, joules: float) -> None:
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


def test_counters_of_processors_and_memory_are_added_up_and_may_begin_anew(tmp_path):
    package, memory = zone(tmp_path, "0", "package-0", 90.0), zone(tmp_path, "0:2", "dram", 5.0)
    core, all_of_it = zone(tmp_path, "0:0", "core", 1.0), zone(tmp_path, "1", "psys", 1.0)
    meter = EnergyMeter()
    with metered(meter, tmp_path):
        put(package, 10.0)  # 20 J: it began anew at 100
        put(memory, 8.0)
        put(core, 50.0)  # a part of the package
        put(all_of_it, 50.0)  # holds the package
    assert meter.used.rapl_joules == pytest.approx(23.0)
    assert energy_of(meter.used, has_gpu=False) == (
        pytest.approx(23.0), "RAPL of processors and memory, with all else that ran on the machine",
    )  # fmt: skip


def test_a_counter_that_cannot_be_read_is_none(tmp_path):
    folder = zone(tmp_path, "0", "package-0", 90.0)
    (folder / "energy_uj").write_text("")
    assert zones(tmp_path) == []
    assert zones(tmp_path / "absent") == []
    folder = zone(tmp_path / "later", "0", "package-0", 90.0)
    meter = EnergyMeter()
    with metered(meter, tmp_path / "later"):
        (folder / "energy_uj").unlink()
    assert meter.used.rapl_joules is None


def test_without_counters_it_is_an_estimate_that_says_so(tmp_path):
    meter = EnergyMeter()
    with pytest.raises(ZeroDivisionError), metered(meter, tmp_path):
        sum(number / (199_999 - number) for number in range(200_000))
    assert meter.used.cpu_seconds > 0
    joules, method = energy_of(Used(12.5), has_gpu=False)
    assert joules == 12.5 * WATTS
    assert method == "estimate: 12.5 CPU-seconds x 10 W, which are stated and not measured"


def test_a_gpu_that_nobody_counts_makes_no_estimate():
    assert energy_of(Used(12.5), has_gpu=True) == (
        None, "not counted: the GPU's energy needs the package nvidia-ml-py (pynvml), and a GPU that counts it",
    )  # fmt: skip
    joules, method = energy_of(Used(1.0, None, 30.0), has_gpu=True)
    assert joules == 30.0 + WATTS
    assert method.startswith("NVML of the GPUs; processor: estimate")
    assert energy_of(Used(1.0, 5.0, 30.0), has_gpu=True)[0] == 35.0


def test_what_one_session_did_not_count_is_not_counted():
    assert Used(1.0, 2.0, 3.0).plus(Used(1.0, 4.0, 5.0)) == Used(2.0, 6.0, 8.0)
    assert Used(1.0, 2.0).plus(Used(1.0)) == Used(2.0)


def test_without_a_gpu_there_is_no_counter_of_one(monkeypatch):
    monkeypatch.setattr(energy.hardware, "has_cuda", lambda: False)
    assert energy.gpu_counter() is None
