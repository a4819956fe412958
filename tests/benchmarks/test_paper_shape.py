"""The command that measures the published settings: it runs at a tiny shape, and its base and rows are what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedllm_bench.benchmarks.perf import paper_shape
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.training.model.lora_model import load_model

IDS = torch.arange(4, 40).view(2, 18)


@pytest.mark.slow
def test_a_tiny_shape_gives_a_markdown_table(capsys):
    before = torch.get_rng_state()
    assert paper_shape.main(["--shape=tiny", "--rounds=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == paper_shape.HEAD
    assert set(lines[1]) == {"|", "-"}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:3] for row in rows] == [
        [d, "tiny", b] for d in ("aya", "chatbot_pa") for b in ("bf16", "8bit", "4bit")
    ]
    assert all(len(row) == lines[0].count("|") - 1 == lines[1].count("|") - 1 for row in rows)
    assert [row[6] for row in rows] == ["not measured"] * 6
    for tokens, seconds, speed in ([float(cell.replace(",", "")) for cell in row[3:6]] for row in rows):
        assert speed == pytest.approx(tokens / seconds, rel=0.1)  # seconds are shown with two digits
    assert rows[0][3] == rows[1][3] == rows[2][3]  # the same rows on both bases
    assert torch.equal(torch.get_rng_state(), before)


def test_the_published_work_is_planned():
    """640 rows a round of 337 tokens on the average for Aya; 20 steps of 8 pairs or fewer for ChatbotPA."""
    config = paper_shape.make_config("aya", "7b", "bf16", [])
    data = paper_shape.DATA["aya"]
    rows = paper_shape.make_rows(config, data, 4 * data.rows, 32000)
    tasks = paper_shape.make_tasks(config, data, rows, 0)
    assert sum(len(micro) for task in tasks for step in task.steps for micro in step) == 4 * 10 * 16
    assert 150_000 < sum(map(paper_shape.useful_tokens, tasks)) < 280_000  # 216k with the real lengths
    assert max(np.diff(rows.starts)) == 1024
    pairs = paper_shape.make_config("chatbot_pa", "7b", "4bit", [])
    data = paper_shape.DATA["chatbot_pa"]
    tasks = paper_shape.make_tasks(pairs, data, paper_shape.make_rows(pairs, data, 10 * data.rows, 32000), 0)
    assert [len(task.steps) for task in tasks] == [2] * 10  # ceil(3 x 13 / 2.68 / 8)
    assert pairs.model.quantization == "4bit"
    assert pairs.local.gradient_checkpointing


def test_lengths_have_the_published_mean_and_deviation():
    drawn = paper_shape.lengths(np.random.default_rng(0), (225, 411), 400_000)
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(225, rel=0.02)
    assert drawn.std() == pytest.approx(411, rel=0.1)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_packed_base_is_that_of_transformers(packable_folder, bits):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(packable_folder, dtype=torch.float32).eval()
    paper_shape.pack(base, torch.float32, bits)
    lora = Lora(rank=4, alpha=8, dropout=0.0, targets=("auto",))
    loaded = load_model(Model(name=str(packable_folder), dtype="float32", quantization=bits), lora)
    with torch.no_grad():
        expected = base(input_ids=IDS).logits
        found = loaded.base(input_ids=IDS).logits
    assert (found - expected).norm() < 1e-5 * expected.norm()  # whose norms round otherwise


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shape=7b"], "--shape 7b needs a CUDA GPU, and none was found; to see that it runs, give --shape tiny"),
        (["--shape=tiny", "--datasets=aya,ayo"], "--datasets: got 'ayo'; there are aya, chatbot_pa"),
        (["--shape=tiny", "--bases=2bit"], "--bases: got '2bit'; there are bf16, 8bit, 4bit"),
        (["--shape=tiny", "--rounds=0"], "--rounds: got 0, give 1 or more"),
    ],
)
def test_what_cannot_run_is_one_line(words, expected, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert paper_shape.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err == f"paper_shape: {expected}\n"
    assert not captured.out
