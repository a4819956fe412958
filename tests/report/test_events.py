"""`--tensorboard`: the curves are those of rounds.jsonl, once however often the command is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import assert_refused, words

from fedllm_bench.common import files
from fedllm_bench.report import events

RECORDS = [
    {"losses": [3.0, 2.0], "failures": [None, None], "lr": 1e-2, "bytes_up": 8},
    {"losses": [None, None], "failures": ["dropped out", "dropped out"], "lr": 5e-3, "bytes_up": 0},
    {"losses": [1.0, None], "failures": [None, "loss nan"], "lr": 1e-3, "bytes_up": 4},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rest = {"update_norm": 0.5, "bytes_down": 16, "seconds": 2.0}
    records = [{"round": number, **record, **rest} for number, record in enumerate(RECORDS, 1)]
    files.write_jsonl(tmp_path / "rounds.jsonl", records)
    return tmp_path


def test_the_curves_are_those_of_the_rounds(folder: Path):
    found = [dict(events.scalars(record)) for record in files.read_jsonl(folder / "rounds.jsonl")]
    assert [curves.get("train/loss") for curves in found] == [2.5, None, 1.0]
    assert [curves["round/answers"] for curves in found] == [2, 0, 1]
    assert [curves["round/bytes_up"] for curves in found] == [8, 0, 4]
    assert len(found[0]) == 7


def test_what_is_written_is_read_back_once_also_after_a_second_time(folder: Path):
    pytest.importorskip("tensorboard", reason="an option: pip install 'fedllm-bench[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        found = EventAccumulator(str(events.write_events(folder)))
        found.Reload()
        assert [(point.step, point.value) for point in found.Scalars("train/loss")] == [(1, 2.5), (3, 1.0)]
        assert [point.wall_time for point in found.Scalars("round/answers")] == [2.0, 4.0, 6.0]
        assert len(found.Tags()["scalars"]) == 7


def test_without_the_package_the_run_does_not_start(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    argv = words("fedavg", None, tmp_path, "--tensorboard")
    assert_refused(argv, tmp_path, capsys, "needs the package tensorboard", "pip install 'fedllm-bench[tensorboard]'")
