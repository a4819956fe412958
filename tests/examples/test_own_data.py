"""examples/own_data.py: a JSONL becomes a split, and the split a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_runs import quick
from example_runs import example

from fedllm_bench.data.manifest import open_split


@pytest.mark.slow
def test_own_rows_become_a_split_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with quick():
        example("own_data")["main"](tmp_path / "own")
    shown = capsys.readouterr().out
    manifest = open_split(tmp_path / "own" / "split").manifest
    assert (manifest.dataset, manifest.name, manifest.licence) == ("rows", "wards", "CC0-1.0")
    assert [client.id for client in manifest.clients] == ["ward north", "ward south", "ward west"]
    assert manifest.upstream.id == "invented in own_data.py"
    (results,) = (tmp_path / "own" / "runs" / "wards" / "fedavg").glob("s0-*/results.json")
    heldout = json.loads(results.read_text())["metrics"]["heldout"]
    assert heldout["after"]["mean"] < heldout["before"]["mean"]
    assert "heldout ↓" in shown
    assert "3 of 3" in shown
