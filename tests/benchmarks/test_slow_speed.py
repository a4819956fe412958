"""`make speed` as a whole at a small size: all ways do the same work, numbers are consistent. No time is asserted."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
import torch

from fedllm_bench.benchmarks.perf import cases, published, speed, ways

pytestmark = pytest.mark.slow
SMALL = ["--cases=tiny", "--clients=2", "--steps=1", "--turns=2", "--threads=1"]


@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_all_ways_agree_and_the_table_shows_what_was_measured(loss, tmp_path, capsys):
    before = torch.get_rng_state()
    words = [*SMALL, f"--losses={loss}", "--no-memory", f"--out={tmp_path}", f"--plot={tmp_path / 'x.svg'}"]
    assert speed.main(words) == 0
    (path,) = tmp_path.glob("speed_*.json")
    (found,) = json.loads(path.read_text())["cases"]
    assert found["relative_l2"].keys() == set(ways.NAMES) - {"ours"}
    assert all(0 < distance < 1e-3 for distance in found["relative_l2"].values())
    assert set(found["seconds"]) == set(found["ratios"]) == set(ways.NAMES)
    for name, seconds in found["seconds"].items():
        assert len(seconds["wall"]) == 2
        ratios = [a / b for a, b in zip(seconds["wall"], found["seconds"]["ours"]["wall"], strict=True)]
        assert found["ratios"][name]["median"] == pytest.approx(statistics.median(ratios))
        speed_of = found["useful_tokens"] / statistics.median(seconds["wall"])
        assert found["useful_tokens_per_second"][name] == pytest.approx(speed_of)
        assert found["useful_tokens"] <= found["processed_tokens"][name]
        assert 0 < found["share_of_limit"][name] < 1
    assert 0 < found["outside_share"] < 0.9
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == list(ways.NAMES)
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_is_of_a_process_of_its_own(tmp_path):
    words = [*SMALL, "--losses=sft", "--ways=ours", "--turns=1", f"--out={tmp_path}"]
    assert speed.main(words) == 0
    (path,) = tmp_path.glob("speed_*.json")
    found: dict[str, Any] = json.loads(path.read_text())["cases"][0]
    assert found["peak_bytes"].keys() == {"ours"}
    assert 10**8 < found["peak_bytes"]["ours"] < 4 * 10**9


def test_a_process_of_its_own_trains_a_round_and_holds_the_base_once(tmp_path, monkeypatch):
    cases.save_random_llama(cases.CASES["tiny"], tmp_path / "base")
    seen = []
    monkeypatch.setitem(ways.WAYS, "published", lambda work: seen.append((work, published.train(work))))
    words = [*SMALL, "--losses=dpo", "--alone=published", f"--model={tmp_path / 'base'}"]
    assert speed.main(words) == 0
    ((work, ends),) = seen
    assert len(ends) == 2
    assert not work.model.layers  # and so nothing of our own model is left
    assert not isinstance(work.model.base, torch.nn.Module)
