"""`make speed-gpu`: every part runs at a tiny shape on a CPU, and a run that is cut off keeps what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedllm_bench.benchmarks.perf import gpu, gpu_parts
from fedllm_bench.common import files


@pytest.fixture
def bench(tmp_path) -> gpu_parts.Bench:
    return gpu_parts.Bench("cpu", "tiny", tmp_path, steps=1, seconds=0.01)


@pytest.mark.slow
def test_every_part_is_measured_at_a_tiny_shape(tmp_path, capsys):
    assert gpu.main(["--device=cpu", "--shape=tiny", f"--out={tmp_path}"]) == 0
    (path,) = tmp_path.glob("gpu_*.json")
    found = files.read_json(path)["parts"]
    assert found.keys() == gpu.parts().keys()
    assert {name: part["not_measured"] for name, part in found.items() if "not_measured" in part} == {}
    for name in ("train aya", "train chatbot_pa", "trl aya", "trl chatbot_pa", "published aya", "small"):
        assert found[name]["tokens_per_second"] > 0
    assert found["trl aya"]["relative_l2"] < 0.5  # bfloat16: AdamW turns rounding into steps
    assert found["memory aya bf16"]["estimate_bytes"] < found["memory aya bf16, no checkpointing"]["estimate_bytes"]
    assert found["answers"]["ratio"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[: len(found)]] == list(found)
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| P")]
    assert [row[0].split()[0] for row in table] == ["P2", "P4", "P5", "P6", "P7", "P10", "P17"]
    assert all(row[2] != "not measured" for row in table)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", gpu.TRAINED)
def test_trl_trains_what_ours_does(bench, dataset, monkeypatch):
    config = gpu_parts.Bench.config

    def in_float32(self: gpu_parts.Bench, dataset: str, *settings: str, base: str = "bf16") -> Any:
        return config(self, dataset, *settings, "model.dtype=float32", base=base)

    monkeypatch.setattr(gpu_parts.Bench, "config", in_float32)
    gpu_parts.ours(bench, dataset)
    assert 0 < gpu_parts.by_trl(bench, dataset)["relative_l2"] < 1e-3


def test_what_is_there_is_kept_when_a_part_fails_or_no_time_is_left(bench, monkeypatch, tmp_path, capsys):
    def broken(_: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("out of memory\nand more")

    made = {"first": (0.0, lambda _: {"tokens_per_second": 5.0}), "second": (0.0, broken), "third": (1e9, broken)}
    monkeypatch.setattr(gpu, "parts", lambda: made)
    bench.shape = "7b"
    seen = []
    gpu.measure(bench, 100.0, lambda found: seen.append(dict(found["parts"])))
    assert [len(found) for found in seen] == [1, 2, 3]
    assert seen[-1]["first"]["tokens_per_second"] == 5.0
    assert seen[-1]["second"]["not_measured"] == "it failed: OutOfMemoryError, out of memory"
    assert seen[-1]["third"] == {"not_measured": "no time was left"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "second: not measured, it failed: OutOfMemoryError, out of memory"
    assert lines[2] == "third: not measured, no time was left"


def test_ratios_are_of_tokens_a_second():
    found = {
        "train aya": {"tokens_per_second": 15000.0, "useful_share": 0.98},
        "trl aya": {"tokens_per_second": 5000.0},
        "small": {"ratio": 3.5},
        "published aya": {"not_measured": "no time was left"},
    }
    lines = gpu.summary(found)
    assert "| P4 over TRL | 2.5x | 3.00x |" in lines
    assert "| P5 over the published shape | 8x | not measured |" in lines
    assert "| P7 small model, ten clients | 3x | 3.50x |" in lines


def test_the_first_time_is_not_counted_where_there_are_others(bench, monkeypatch):
    times = iter([0.0, 9.0, 9.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr(gpu_parts.time, "perf_counter", lambda: next(times))
    bench.seconds = 10.5
    assert bench.timed(lambda: None, most=2) == [1.0, 2.0]
    times = iter([0.0, 11.0])
    assert bench.timed(lambda: None) == [11.0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "no CUDA GPU was found; to see that it runs, give --device cpu --shape tiny"),
        (["--device=cpu"], "--shape 7b needs a CUDA GPU; give --shape tiny with --device cpu"),
        (["--device=cpu", "--shape=tiny", "--seconds=0"], "--seconds: got 0.0, give more than 0"),
    ],
)
def test_what_cannot_run_is_one_line(words, expected, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([*words, f"--out={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"gpu: {expected}\n"
    assert not captured.out
