"""The command diversity on all mini splits and on splits of real rows, and as a process that is ended."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quiet_environment
from forked import Forked
from sentence_model import encoder_folder

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.diversity.quality.ifd import ROWS_AT_ONCE
from fedllm_bench.diversity.settings import SECTIONS
from fedllm_bench.mini.dataset import BUILDERS

pytestmark = pytest.mark.slow
REAL_ROWS = os.environ.get("FEDLLM_BENCH_REAL_ROWS")
SMALL = ("--permutations", "99")
# data set -> the stand-in for its upstream, options of `data build`, and the clients that they give: more than figures
# name, and of every source and language
REAL = {
    "aya": ("aya", ("--min-samples", "10", "--languages", "ukr,spa,eng", "--per-language", "40"), 71),
    "chatbot_pa": ("arena", (), 747),
    "wildchat": ("wildchat", ("--min-samples", "10"), 100),
}
PATIENCE_SECONDS = 300


def measured(split: str, out: Path, *options: str) -> dict[str, Any]:
    """The report of a split by a real sentence encoder, after checks that hold for every split."""
    encoder = encoder_folder()
    assert cli.main(["diversity", split, "--out", str(out), "--embedder", str(encoder), *SMALL, *options]) == 0
    report: dict[str, Any] = files.read_json(out / "diversity.json")
    assert report["settings"]["embedder"]["id"] == encoder.name
    assert report["settings"]["embedder"]["dimensions"] == 384
    task = report["split"]["task"]
    skipped = {name for name, section in report["sections"].items() if "skipped" in section}
    assert skipped == (set() if task == "preference" else {"preference"})
    assert len(report["clients"]) == report["split"]["clients"]
    assert sum(client["rows"] for client in report["clients"]) == report["split"]["rows"]
    assert len(list((out / "figures").glob("*.svg"))) == len(list((out / "figures").glob("*.png"))) >= 12
    for name in ("diversity.html", "diversity.md", "clients.csv", "pairs.parquet"):
        assert (out / name).stat().st_size > 100
    return report


@pytest.mark.parametrize("dataset", BUILDERS)
def test_every_mini_split(dataset: str, tmp_path: Path):
    report = measured(f"mini-{dataset}", tmp_path, "--max-rows", "600")
    assert list(report["sections"]) == list(SECTIONS)
    assert report["sections"]["quality"]["note"] == ""
    assert report["sections"]["embedding"]["index"]["rejected_at_0.05"]  # its users were made different
    assert all(client["ifd"]["rows"] >= 2 for client in report["clients"])


@pytest.mark.rows
@pytest.mark.parametrize("dataset", REAL)
def test_real_rows(dataset: str, tmp_path: Path):
    raw, options, clients = REAL[dataset]
    file, split = Path(str(REAL_ROWS)) / f"{raw}_columns.jsonl.gz", tmp_path / "split"
    build = ["data", "build", dataset, "--raw", str(file), "--out", str(split), "--decontaminate", "off", *options]
    assert cli.main(build) == 0
    report = measured(str(split), tmp_path / "out", "--max-rows", "400")
    assert report["split"]["clients"] == clients
    assert "says little" in report["sections"]["quality"]["note"]
    index = report["sections"]["embedding"]["index"]
    assert index["stratified_by"] == ["source", "language"]
    assert 0.01 <= index["p_value"] <= 1


def words(out: Path) -> list[str]:
    """IFD of about 800 rows."""
    return ["diversity", "mini-aya", "--only", "quality", "--max-rows", "800", "--out", str(out)]


def num_kept(cache: Path) -> int:
    found = list(cache.glob("diversity/*.sqlite"))
    if not found:
        return 0
    try:
        with closing(sqlite3.connect(f"file:{found[0]}?mode=ro", uri=True)) as base:
            return int(base.execute("SELECT count(*) FROM kept").fetchone()[0])
    except sqlite3.OperationalError:  # its table is being made
        return 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a process that is started as from a shell; those of the forked ones are held to it."""
    out, cache = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("cache")
    command, environment = [sys.executable, "-m", "fedllm_bench", *words(out)], quiet_environment(cache)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return (out / "diversity.json").read_bytes()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_process_goes_on_and_ends_with_the_same_bytes(
    signum: signal.Signals, tmp_path: Path, undisturbed: bytes
):
    cache, out = tmp_path / "cache", tmp_path / "out"
    process = Forked(words(out), cache, tmp_path / "said")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while num_kept(cache) < ROWS_AT_ONCE and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    assert process.wait(PATIENCE_SECONDS) == (-9 if signum == signal.SIGKILL else 128 + signum), process.err
    assert signum == signal.SIGKILL or "the same command goes on from there" in process.err
    assert not out.exists() or not list(out.iterdir())
    before = num_kept(cache)
    assert before >= ROWS_AT_ONCE
    process = Forked(words(out), cache, tmp_path / "said")
    assert process.wait(PATIENCE_SECONDS) == 0, process.err
    assert (out / "diversity.json").read_bytes() == undisturbed
    assert num_kept(cache) > before
