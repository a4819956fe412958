"""The benchmark of builds: its rows keep the same clients at any size, and it measures both ways."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import pytest

from fedllm_bench.benchmarks.perf import build_scale


@pytest.fixture(autouse=True)
def _made_up_rows(monkeypatch):
    monkeypatch.delenv("FEDLLM_BENCH_REAL_ROWS", raising=False)


def test_more_rows_are_rows_of_users_below_the_cut():
    base = build_scale.base_rows()
    sizes = Counter(row["user_id"] for row in build_scale.raw_rows(base, len(base) + 1003))
    assert sizes.total() == len(base) + 1003
    kept = {user for user, rows in sizes.items() if rows >= build_scale.MIN_SAMPLES}
    assert kept == {row["user_id"] for row in base}
    assert len(kept) == build_scale.MADE_UP_USERS
    assert len({row["inputs"] for row in islice(build_scale.raw_rows(base, len(base) + 1003), len(base), None)}) == 1003


@pytest.mark.slow
def test_it_measures_both_ways_at_every_size(tmp_path, capsys, monkeypatch):
    base = build_scale.base_rows()[:2000]
    monkeypatch.setattr(build_scale, "base_rows", lambda: base)
    assert build_scale.main(["--rows", "2000,2500", "--json", str(tmp_path / "x.json")]) == 0
    runs = json.loads((tmp_path / "x.json").read_text())["runs"]
    assert [(run["way"], run["rows"]) for run in runs] == [
        (way, rows) for rows in (2000, 2500) for way in ("build", "plain")
    ]
    assert all(30 < run["peak_mib"] < 4000 for run in runs)
    assert runs[0]["clients"] == runs[2]["clients"] > 10
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["way", "rows", "file", "MiB", "seconds", "rows/s", "peak", "MiB"]


def test_a_failed_run_is_no_number():
    with pytest.raises(RuntimeError, match="broken"):
        build_scale.measured(["-c", "raise SystemExit('broken')"])


def test_help_has_examples_and_sizes_are_checked(capsys):
    with pytest.raises(SystemExit):
        build_scale.main(["--help"])
    assert "examples:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        build_scale.main(["--rows", "0"])
    assert caught.value.code == 2
