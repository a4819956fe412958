"""benchmarks/perf/real_model.py: the ways do the same work, what is shown was measured. No time is asserted."""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np
import pytest
import torch

from fedllm_bench.benchmarks.perf import parts, real_model

SHORT = ("model.dtype=float32", "local.steps=2", "local.micro_batch=2", "local.sequence_length=24", "lora.rank=2")
OPTIONS = [word for setting in SHORT for word in ("--set", setting)]


@pytest.fixture(scope="module")
def work(tiny_folder):
    return real_model.make_work(str(tiny_folder), SHORT, num_scored=4)


def test_the_ways_agree_and_the_table_shows_what_was_measured(tiny_folder, tmp_path, capsys):
    words = ["--model", str(tiny_folder), *OPTIONS, "--repeats=2", "--scored=4", f"--json={tmp_path / 'real.json'}"]
    assert real_model.main(words) == 0
    found: dict[str, Any] = json.loads((tmp_path / "real.json").read_text())
    assert all(0 < distance < 1e-3 for distance in found["apart"]["adapters"].values())
    assert found["apart"]["adapters"].keys() == {"counted", "all"}
    assert 0 <= found["apart"]["scores"] < 1e-4
    for kind, names in (("train", {"ours", "counted", "all"}), ("score", {"ours", "all"})):
        seconds = found[kind]["seconds"]
        assert seconds.keys() == found[kind]["slower"].keys() == names
        for name, own in seconds.items():
            assert len(own) == 2
            ratios = [b / a for a, b in zip(seconds["ours"], own, strict=True)]
            assert found[kind]["slower"][name]["median"] == pytest.approx(statistics.median(ratios))
            speed = found[kind]["tokens_per_second"][name]
            assert speed == pytest.approx(found[kind]["tokens"] / statistics.median(own))
    assert found["shape"].items() >= {"steps": 2, "rows": 2, "dtype": "float32", "scored_rows": 4}.items()
    assert found["train"]["tokens"] == found["shape"]["tokens"] <= found["shape"]["padded"] <= 4 * 24
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        *("train, ours", "train, counted", "train, all", "score, ours", "score, all")
    ]
    assert torch.get_num_threads() == 1


def test_times_of_unequal_scores_are_refused(work, monkeypatch):
    real = real_model.plain_scores
    monkeypatch.setattr(real_model, "plain_scores", lambda work: [value + 0.1 for value in real(work)])
    with pytest.raises(RuntimeError, match="scores differ by"):
        real_model.check_scores(work)


def test_rows_have_the_lengths_that_are_said():
    rows = real_model.make_rows(0, 4000, 1000, longest=10_000, counted=0.4)
    lengths = np.diff(rows.starts)
    assert np.median(lengths) == pytest.approx(92, rel=0.03)
    assert np.mean(lengths > 165) == pytest.approx(0.1, abs=0.015)
    assert rows.num_counted / len(rows.ids) == pytest.approx(0.4, abs=0.01)
    assert rows.ids.min() >= 3


def test_every_part_of_a_step_is_named_and_all_of_its_time_is_in_one(work):
    found = parts.step_parts(work.model, lambda: real_model.ours(work))
    assert tuple(found) == parts.PARTS
    assert sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values())
    assert found[parts.REST] < 0.5  # else the backward pass was not found


def test_the_backward_pass_of_a_layer_counts_as_its_part(work):
    expected = {"AdaptedProductBackward": "LoRA", "SiluBackward0": "elementwise", "_FrozenRmsNormBackward": "norms",
                "_ChunkedNllBackward": "head and loss"}  # fmt: skip
    seen: dict[str, set[str]] = {}
    of_base = 0
    for event, part in parts.operators(work.model, lambda: real_model.ours(work)):
        of_base += part == "linear layers" and under(event, "AdaptedProductBackward")
        if event.name.startswith("autograd::engine::evaluate_function: "):
            seen.setdefault(event.name.rpartition(" ")[2], set()).add(part)
    assert {name: seen[name] for name in expected} == {name: {part} for name, part in expected.items()}
    assert "MmBackward0" not in seen  # products of adapted layers are in AdaptedProduct, and the head's in _ChunkedNll
    assert of_base > 0  # the product with the base's weight in it
    assert len(seen) > 10


def under(event, name: str) -> bool:
    """Whether the operator runs inside a backward function of this name."""
    while event is not None:
        if event.name.endswith(name):
            return True
        event = event.cpu_parent
    return False


def test_without_a_step_nothing_is_the_optimisers(work):
    def forward_alone() -> None:
        with work.model.using(work.start):
            work.model.hidden(torch.arange(40, 80).view(2, 20))

    found = parts.step_parts(work.model, forward_alone)
    assert found["head and loss"] == found["clipping and optimiser"] == 0
    assert all(found[part] > 0 for part in ("linear layers", "LoRA", "norms", "attention", "elementwise"))
    again = parts.step_parts(work.model, lambda: real_model.ours(work))
    assert again["head and loss"] > 0  # and nothing stayed in the model


def test_parts_of_the_memory_add_up_to_the_peak(work):
    found = parts.memory_parts(work.model, work.start, work.task, lambda: real_model.ours(work), libraries=10**6)
    peak = found.pop("peak")
    assert sum(found.values()) == peak
    assert found["base"] == sum(p.nbytes for p in work.model.base.parameters()) + sum(
        b.nbytes for b in work.model.base.buffers()
    )
    assert found["adapters and optimiser"] == 12 * sum(t.nbytes for t in work.start.values())
    assert found["activations"] > 10_000
    assert found["logits"] > 10_000
    work.model.base(input_ids=torch.arange(8).view(2, 4))  # no adapter is left in it


@pytest.mark.parametrize(
    "words",
    [
        ["--repeats=0"],
        ["--scored=0"],
        ["--counted=0"],
        ["--counted=2"],
        ["--set", "local.no=1"],
        ["--model", "./no-folder"],
    ],
)
def test_what_is_wrong_is_one_line(words, capsys):
    assert real_model.main(words) == 2
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1
    assert shown[0].startswith("real_model: ")


def test_help_shows_the_options_with_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        real_model.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--model", "--set", "--repeats", "--scored", "--counted", "--threads", "--json", "examples:"):
        assert word in shown
