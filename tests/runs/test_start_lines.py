"""What a run says before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from fedllm_bench.common import hardware
from fedllm_bench.config import model_files, presets
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.opening import open_cell
from fedllm_bench.runs.start_lines import dtype_reason, start_lines


def lines(split: Split, model: Path, *overrides: str) -> list[str]:
    config = presets.load("aya", "fedavg", "small", overrides, split=str(split.folder), model=str(model))
    return start_lines(open_cell(config, Path("runs"), cuda=False, threads=1))


def count_of(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118 - no dict


def test_the_lines_name_model_users_and_sample(tiny_split: Split, tiny_folder: Path) -> None:
    found = lines(tiny_split, tiny_folder, "model.dtype=float32", "evaluation.clients=3", "evaluation.heldout_rows=9")
    model, data, sample = found
    assert model.startswith(f"Model: tiny, {count_of(tiny_folder) / 1e6:.1f} million parameters, float32")
    manifest = tiny_split.manifest
    train, heldout = (sum(getattr(client, part) for client in manifest.clients) for part in ("train", "heldout"))
    people = f"{len(manifest.clients)} clients, {len(manifest.unseen)} unseen users"
    assert data == (
        f"Data {tiny_split.name}: {people}, {train} training rows, {heldout} held out, split {tiny_split.hash[:10]}."
    )
    assert "at most 9 held-out rows of each part of 3 clients" in sample


def test_without_a_sample_there_is_no_line_of_it(tiny_split: Split, tiny_folder: Path) -> None:
    assert len(lines(tiny_split, tiny_folder, "evaluation.heldout_rows=0")) == 2


@pytest.mark.parametrize(
    ("dtype", "native", "cuda", "words"),
    [
        ("bfloat16", True, False, "this processor has arithmetic of this type"),
        ("bfloat16", False, False, "this processor emulates it slowly"),
        ("bfloat16", True, True, "this GPU has arithmetic of this type"),
        ("float32", False, False, "this processor has no arithmetic of type bfloat16"),
        ("float32", True, False, ""),
        ("float16", False, False, ""),
    ],
)
def test_why_the_type_was_taken(
    monkeypatch: pytest.MonkeyPatch, dtype: str, native: bool, cuda: bool, words: str
) -> None:
    monkeypatch.setattr(hardware, "has_cuda", lambda: cuda)
    monkeypatch.setattr(hardware, "computes_bfloat16", lambda: native)
    assert dtype_reason(dtype) == words


def test_parameters_are_counted_from_headers_and_none_of_what_cannot_be_read(tiny_folder: Path, tmp_path: Path) -> None:
    assert model_files.num_parameters(tiny_folder) == count_of(tiny_folder) > 0
    assert model_files.num_parameters(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    assert model_files.num_parameters(tmp_path) is None


def test_a_run_with_attackers_says_so_before_it_trains(tiny_split: Split, tiny_folder: Path) -> None:
    (line,) = lines(tiny_split, tiny_folder, "attack.kind=noise", "attack.clients=0,3", "evaluation.heldout_rows=0")[2:]
    assert line.startswith("ATTACKED: attack.kind=noise by attack.clients=0,3; this is no result of the data set")
