"""The command that measures speed: its variants do the same work, its numbers are consistent. No time is asserted."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
import torch

from fedllm_bench.benchmarks.perf import speed

TINY = ["--hidden=16", "--clients=2", "--steps=2", "--tokens=6", "--repeats=2", "--threads=1"]


@pytest.mark.slow
def test_the_variants_agree_and_the_table_shows_what_was_measured(tmp_path, capsys):
    before = torch.get_rng_state()
    assert speed.main([*TINY, f"--json={tmp_path / 'speed.json'}"]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "speed.json").read_text())
    assert found["shape"].items() >= {"hidden": 16, "clients": 2, "steps": 2, "tokens": 6, "rows": 4}.items()
    assert found["relative_l2"].keys() == {"loop", "trl", "trl-lean"}
    assert all(0 < distance < 1e-3 for distance in found["relative_l2"].values())
    assert set(found["seconds"]) == set(found["ratios"]) == {"stacked", "loop", "trl", "trl-lean"}
    for name, seconds in found["seconds"].items():
        assert len(seconds["wall"]) == len(seconds["cpu"]) == 2
        ratios = [a / b for a, b in zip(seconds["wall"], found["seconds"]["stacked"]["wall"], strict=True)]
        assert found["ratios"][name]["median"] == pytest.approx(statistics.median(ratios))
        assert found["ratios"][name]["least"] == pytest.approx(min(ratios))
        assert found["ratios"][name]["largest"] == pytest.approx(max(ratios))
    assert found["environment"]["threads"] == 1
    assert torch.__version__.startswith(found["environment"]["packages"]["torch"])  # which may leave "+cpu" out
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 clients x 2 steps x 4 rows x 6 tokens, hidden 16")
    assert [line.split()[0] for line in lines[2:6]] == ["stacked", "loop", "trl", "trl-lean"]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_times_of_unequal_work_are_refused(tmp_path):
    work = speed.make_work(speed.Shape(hidden=16, clients=1, steps=1, tokens=6), tmp_path)
    variants = speed.make_variants(work)
    (end,) = variants["stacked"]()
    name = next(iter(end))
    variants["loop"] = lambda: [{**end, name: end[name] + 1.0}]
    with pytest.raises(RuntimeError, match="loop trained other adapters than stacked"):
        speed.disagreements(variants, work.start)


def test_help_shows_the_options_with_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        speed.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--hidden", "--clients", "--steps", "--tokens", "--repeats", "--threads", "--json", "examples:"):
        assert word in shown
