"""`grid --shard I/N`: shares of the cells by processes of their own, and tables when all are there."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import assert_refused, quick, run
from grid_runs import cells_of, grid_words, started_here

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.shards import Shard


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_shares_are_apart_and_together_the_grid(count: int, tiny_split: Split) -> None:
    cells = cells_of(tiny_split)
    shares = [Shard(number, count).of(cells) for number in range(1, count + 1)]
    assert sorted(each.key for share in shares for each in share) == sorted(each.key for each in cells)
    assert len(cells) == 6
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares[0][0].key == ("local", 0)


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "1/2/3", "-1/2", "a/b", "1 of 2", "1.0/2", "1/9999999"])
def test_what_is_no_share_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="give I/N with I from 1 to N"):
        Shard.parse(text)
    assert_refused(["grid", "aya", "--out", str(tmp_path), f"--shard={text}"], tmp_path, capsys, "--shard", "as 2/4")


def test_a_share_of_several_data_sets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["grid", "aya,wildchat", "--out", str(tmp_path), "--shard=1/2"]
    assert_refused(argv, tmp_path, capsys, "--shard 1/2: it is of one data set")


def test_the_share_that_ends_last_makes_the_tables(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    started = started_here(monkeypatch, lambda task: False)
    less = ("--model", str(tiny_folder), "--metrics", "heldout", "--methods", "local,fedavg,fedprox", "--seeds", "0")
    argv = grid_words(tiny_split.folder, tmp_path, *less)
    assert cli.main([*argv, "--shard", "1/2"]) == 0
    assert started == [("local", 0), ("fedprox", 0)]
    shown = capsys.readouterr().out
    assert "Share 1/2 of a grid of 3 cells: 2 cells" in shown
    assert "2 of 3 cells have results; the share that ends last makes the tables" in shown
    (folder,) = (tmp_path / "mini-aya").glob("grid-*")
    assert not (folder / "grid.json").exists()
    assert cli.main([*argv, "--shard", "1/2"]) == 0, "a share goes on, or is done"
    assert cli.main([*argv, "--shard", "2/2"]) == 0
    assert started[2:] == [("fedavg", 0)]
    table = (folder / "table.txt").read_text()
    assert table in capsys.readouterr().out
    assert cli.main(argv) == 0
    assert len(started) == 3
    assert (folder / "table.txt").read_text() == table


def test_a_baseline_that_another_process_runs_is_waited_for(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path
) -> None:
    less = ("--model", str(tiny_folder), "--metrics", "heldout")
    baseline = run("local", tiny_split.folder, tmp_path, *less)
    (baseline / "results.json").rename(tmp_path / "results.json")  # as if it were not done yet
    with (baseline / ".lock").open("w") as other:  # a lock that the library in this process knows nothing of
        fcntl.flock(other, fcntl.LOCK_EX)

        def end() -> None:
            (tmp_path / "results.json").rename(baseline / "results.json")
            fcntl.flock(other, fcntl.LOCK_UN)

        threading.Timer(3.0, end).start()
        started = time.monotonic()
        assert run("local", tiny_split.folder, tmp_path, *less) == baseline
    assert time.monotonic() - started > 2.0
