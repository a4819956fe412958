"""Free memory as Linux tells it: of the machine, and within the limits of control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedllm_bench.common.free_memory import available_memory

MEMINFO = "MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:   13000000 kB\n"
UNLIMITED = 9223372036854771712  # what version 1 says where there is no limit


def machine(folder: Path, groups: str = "", meminfo: str = MEMINFO, **files: str) -> int | None:
    """`files`: contents by path below the mount, with __ for / and _dot_ for a dot."""
    (folder / "meminfo").write_text(meminfo)
    (folder / "cgroup").write_text(groups)
    for name, text in files.items():
        path = folder / "mount" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_memory(folder / "meminfo", folder / "cgroup", folder / "mount")


def test_without_limits_it_is_what_the_machine_has_available(tmp_path):
    assert machine(tmp_path) == 13_000_000 * 1024
    assert machine(tmp_path, "0::/\n", memory_dot_max="max\n", memory_dot_current="5\n") == 13_000_000 * 1024


@pytest.mark.parametrize("meminfo", ["", "MemFree: 100 kB\n", "MemAvailable: many kB\n", "MemAvailable:\n"])
def test_where_the_kernel_does_not_say_nothing_is_known(meminfo, tmp_path):
    assert machine(tmp_path, meminfo=meminfo) is None
    assert available_memory(tmp_path / "none", tmp_path / "none", tmp_path / "none") is None


def test_a_limit_of_version_2_counts_without_the_files_in_the_cache(tmp_path):
    stat = "anon 700\ninactive_file 200\nactive_file 100\n"
    files = {"a__memory_dot_max": "5000\n", "a__memory_dot_current": "1000\n", "a__memory_dot_stat": stat}
    assert machine(tmp_path, "0::/a\n", **files) == 5000 - (1000 - 300)


def test_a_limit_of_an_outer_group_counts_too(tmp_path):
    files = {
        "a__b__memory_dot_max": "max\n",
        "a__b__memory_dot_current": "1000\n",
        "a__memory_dot_max": "3000\n",
        "a__memory_dot_current": "1000\n",
    }
    assert machine(tmp_path, "0::/a/b\n", **files) == 2000


def test_limits_of_version_1(tmp_path):
    files = {
        "memory__job__memory_dot_limit_in_bytes": "8000\n",
        "memory__job__memory_dot_usage_in_bytes": "6000\n",
        "memory__memory_dot_limit_in_bytes": f"{UNLIMITED}\n",
        "memory__memory_dot_usage_in_bytes": "6000\n",
    }
    assert machine(tmp_path, "9:cpu:/job\n4:memory:/job\n", **files) == 2000


def test_in_a_container_the_limit_lies_at_the_mount_itself(tmp_path):
    """The path is that of the host, which the container does not see."""
    files = {"memory_dot_max": "4000\n", "memory_dot_current": "1500\n"}
    assert machine(tmp_path, "0::/system.slice/docker-1.scope\n", **files) == 2500
    assert machine(tmp_path, "0::/../../job\n", **files) == 2500


def test_a_group_over_its_limit_has_nothing_left(tmp_path):
    files = {"memory_dot_max": "4000\n", "memory_dot_current": "5000\n"}
    assert machine(tmp_path, "0::/\n", **files) == 0
