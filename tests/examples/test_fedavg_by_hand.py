"""examples/fedavg_by_hand.py ends where `fedllm-bench bench` ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import TINY, quick, run
from example_runs import example
from safetensors.torch import load_file

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split

TENSORS = "adapter_model.safetensors"


def assert_same_adapter(ours: Path, theirs: Path) -> None:
    """Equal to the last bit: the same plan, threads and machine."""
    trees = [load_file(folder / TENSORS) for folder in (ours, theirs)]
    assert len(trees[0]) > 20
    assert trees[0].keys() == trees[1].keys()
    assert all(tensor.equal(trees[1][name]) for name, tensor in trees[0].items())
    assert any(tensor.abs().max() > 1e-4 for name, tensor in trees[0].items() if "lora_B" in name)  # it was trained
    assert (ours / "adapter_config.json").read_bytes() == (theirs / "adapter_config.json").read_bytes()


def test_two_rounds_by_hand_are_two_rounds_of_bench(tiny_split: Split, tmp_path: Path):
    by_hand = example("fedavg_by_hand")
    settings = [*TINY, *by_hand["SETTINGS"], "local.steps=2"]
    more = [word for setting in settings for word in ("--set", setting)]
    with quick():
        folder = run("fedavg", tiny_split.folder, tmp_path / "runs", "--metrics", "heldout", *more)
        split_of = {"mini_split": lambda *_: tiny_split, "SETTINGS": settings}
        by_hand["main"].__globals__.update(split_of)
        by_hand["main"](tmp_path / "by_hand")
    assert_same_adapter(tmp_path / "by_hand", folder / "adapter")


@pytest.mark.slow
def test_on_mini_aya_it_ends_where_the_command_of_its_docstring_ends(tmp_path: Path):
    by_hand = example("fedavg_by_hand")
    words = [word for word in by_hand["__doc__"].partition("fedllm-bench ")[2].partition("\n\n")[0].split() if word]
    assert words[:5] == ["bench", "aya", "fedavg", "--profile", "mini"]
    with quick():
        assert cli.main([*words, "--metrics", "heldout", "--out", str(tmp_path / "runs")]) == 0
        by_hand["main"](tmp_path / "by_hand")
    (folder,) = (tmp_path / "runs" / "mini-aya" / "fedavg").iterdir()
    assert_same_adapter(tmp_path / "by_hand", folder / "adapter")
