"""The cores that a process was given, and how workers are kept on some of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedllm_bench.common import cores, hardware
from fedllm_bench.common.cores import given_cores, groups_of_cores, kept_on, num_cores, others_at_work, pin


@pytest.fixture
def eight(monkeypatch) -> None:
    """Eight quiet cores, of a larger machine."""
    monkeypatch.setattr(cores, "given_cores", lambda: [2, 3, 4, 5, 8, 9, 10, 11])
    monkeypatch.setattr(cores, "num_cores", lambda: 8)
    monkeypatch.setattr(cores, "others_at_work", lambda: 0)
    monkeypatch.delenv("FEDLLM_BENCH_PIN", raising=False)


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        ((4, 4), [[2, 3, 4, 5], [8, 9, 10, 11]]),
        ((3, 5), [[2, 3, 4], [5, 8, 9, 10, 11]]),
        ((2, 2, 2), [[2, 3], [4, 5, 8], [9, 10, 11]]),  # none is left over
        ((1, 1), [[2, 3, 4, 5], [8, 9, 10, 11]]),
    ],
)
def test_all_cores_are_dealt_out_none_twice(eight, threads: tuple[int, ...], expected: list[list[int]]):
    assert groups_of_cores(threads) == expected
    assert all(len(group) >= number for group, number in zip(expected, threads, strict=True))


@pytest.mark.parametrize("threads", [(8,), (5, 4), (8, 8)])
def test_nobody_is_pinned_alone_or_with_more_threads_than_cores(eight, threads: tuple[int, ...]):
    assert groups_of_cores(threads) is None


@pytest.mark.parametrize(("others", "is_pinned"), [(0, True), (2, True), (3, False)])
def test_nobody_is_pinned_where_others_need_the_cores(eight, others: int, is_pinned: bool, monkeypatch):
    monkeypatch.setattr(cores, "others_at_work", lambda: others)
    assert (groups_of_cores((3, 3)) is not None) is is_pinned


def test_nobody_is_pinned_under_a_quota_nor_where_it_is_switched_off(eight, monkeypatch):
    monkeypatch.setenv("FEDLLM_BENCH_PIN", "0")
    assert groups_of_cores((4, 4)) is None
    monkeypatch.setenv("FEDLLM_BENCH_PIN", "1")
    assert groups_of_cores((4, 4)) is not None
    monkeypatch.setattr(cores, "num_cores", lambda: 4)
    assert groups_of_cores((2, 2)) is None


@pytest.mark.parametrize(("text", "expected"), [("0.5 0.4 0.3 4/220 77\n", 3), ("0 0 0 0/9 1\n", 0), ("", 0), ("x", 0)])
def test_others_at_work_are_those_that_run_now_but_this_one(text: str, expected: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cores, "SECONDS_BETWEEN_LOOKS", 0)
    (tmp_path / "loadavg").write_text(text)
    assert others_at_work(tmp_path / "loadavg") == expected
    assert others_at_work(tmp_path / "missing") == 0


def quota(folder: Path, groups: str, **contents: str) -> int:
    (folder / "cgroup").write_text(groups)
    for name, text in contents.items():
        path = folder / "mount" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return num_cores(folder / "cgroup", folder / "mount")


def test_a_quota_of_time_of_a_control_group_counts_as_so_many_cores(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cores, "given_cores", lambda: list(range(16)))
    assert quota(tmp_path, "0::/a/b\n") == 16
    assert quota(tmp_path, "0::/a/b\n", a__b__cpu_dot_max="max 100000\n") == 16
    assert quota(tmp_path, "0::/a/b\n", a__cpu_dot_max="250000 100000\n") == 3
    assert quota(tmp_path, "0::/a/b\n", a__b__cpu_dot_max="50000 100000\n") == 1
    old = {"cpu__job__cpu_dot_cfs_quota_us": "400000\n", "cpu__job__cpu_dot_cfs_period_us": "100000\n"}
    assert quota(tmp_path, "4:cpu,cpuacct:/job\n", **old) == 4
    assert quota(tmp_path, "4:cpu,cpuacct:/job\n", **{**old, "cpu__job__cpu_dot_cfs_quota_us": "-1\n"}) == 16


def test_a_run_has_as_many_threads_as_cores_it_may_keep_busy(monkeypatch):
    monkeypatch.setattr(hardware, "num_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert hardware.num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert hardware.num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1" * 5000)  # more digits than Python reads
    assert hardware.num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_process_is_kept_on_its_cores_and_let_go_again():
    before = given_cores()
    with kept_on(before[:1]):
        assert given_cores() == before[:1]
    assert given_cores() == before
    with kept_on(()):
        assert given_cores() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_child_is_pinned_and_one_that_has_ended_is_no_error():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pin(child.pid, given_cores()[-1:])
    assert sorted(os.sched_getaffinity(child.pid)) == given_cores()[-1:]
    child.communicate(b"\n")
    pin(child.pid, given_cores())
