"""`bench --engine ray` with a Ray of its own: killed, stopped and gone on with, and no process of Ray stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, folder_of, outcome, quick, quiet_environment, run, words

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
SCORED = ("--metrics", "heldout")
# What travels is other than what is trained, and clients keep what they did not send.
SENT = ("upload_dtype=int4", "error_feedback=true", "download_dtype=int8")
SETTINGS = (*TINY, "federation.rounds=10", "local.block_size=1", *(f"communication.{setting}" for setting in SENT))
PATIENCE_SECONDS = 240
MARK = "FEDLLM_BENCH_TEST_OF_RAY"


def start(split: Split, out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    """As a terminal does: in a group of its own, which gets Ctrl-C."""
    line = words("scaffold", split.folder, out, "--engine", "ray", "--threads", "1", *SCORED, *more, settings=SETTINGS)
    return subprocess.Popen(
        [sys.executable, "-m", "fedllm_bench", *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**quiet_environment(cache), "OMP_NUM_THREADS": "1", MARK: "1"},
        start_new_session=True,
    )


def trained(folder: Path) -> dict[str, Any]:
    """What a run leaves but its config, in which the engine of its first session stands."""
    found = outcome(folder)
    assert found["files"].pop("config.json")
    return {key: found[key] for key in ("metrics", "rounds", "files")}


def rounds(out: Path) -> int:
    return sum(len(read_jsonl(path)) for path in out.glob("mini-aya/scaffold/*/rounds.jsonl"))


def wait_for(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marked() -> list[str]:
    """The command lines of processes that were started below `start`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}=1".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is a system's
            continue
    return found


def listening(pattern: str = "0A") -> set[str]:
    """Local addresses, in hex, on which any process of this user that `start` began listens."""
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}=1".encode() in (folder / "environ").read_bytes().split(b"\0"):
                inodes |= {str(link.readlink()) for link in (folder / "fd").iterdir()}
        except OSError:
            continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == pattern and f"socket:[{row[9]}]" in inodes}


def test_a_run_killed_and_stopped_under_ray_ends_in_one_process_with_the_same_bits(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cache = tmp_path / "runs", tmp_path / "cache"
    process = start(tiny_split, out, cache)
    wait_for(lambda: rounds(out) >= 2 or process.poll() is not None)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    found = listening()
    assert found
    assert found <= loopback
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not marked())
    killed_at = rounds(out)

    process = start(tiny_split, out, cache, "--set", "ray.workers=1")
    wait_for(lambda: rounds(out) >= killed_at + 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command goes on from there" in err.splitlines()[-1]
    wait_for(lambda: not marked())
    assert killed_at + 2 <= rounds(out) < 10, "it was done before it was stopped"

    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(cache))
    settings = [*SCORED, *(word for setting in SETTINGS for word in ("--set", setting))]
    with quick():
        ended = run("scaffold", tiny_split.folder, out, *settings)
        assert ended == folder_of("scaffold", out), "an engine says where, not what: it is the same run"
        whole = run("scaffold", tiny_split.folder, tmp_path / "whole", *settings)
    assert trained(ended) == trained(whole)
