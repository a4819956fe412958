"""The size of a pass: the default unless another is clearly faster, the same with a cold and a warm cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.pipeline import pass_search
from fedllm_bench.pipeline.pass_search import chosen, tokens_for, with_passes
from fedllm_bench.pipeline.plan import VERSION, Plan, read_plan, write_plan
from fedllm_bench.pipeline.stages import run_cell
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.training.passes import PassPlan

QUICK = ("evaluation.local_clients=1", "federation.rounds=2", "evaluation.metrics=heldout", "local.steps=2")


def test_the_default_is_left_by_a_clear_margin_only():
    assert chosen({512: [0.90, 0.95], 1024: [1.0, 1.1]}, 1024) == 1024
    assert chosen({512: [0.99, 0.80], 1024: [1.0, 1.1], 2048: [0.85, 0.9]}, 1024) == 512
    assert chosen({1024: [1.0]}, 1024) == 1024
    assert chosen({512: [1.0, 1.0], 1024: [9.0, 1.05]}, 1024) == 1024  # a turn that others slowed says nothing


@pytest.fixture
def cell(tiny_split, tiny_run_config, tmp_path: Path) -> Cell:
    return Cell(tiny_run_config("fedavg", *QUICK, "local.micro_batch=8"), tiny_split, tmp_path / "runs", 1)


def test_two_runs_of_a_command_have_the_same_passes_and_bits(cell, tmp_path, monkeypatch):
    """With a cold and then a warm cache, whatever the clock says."""
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pass_search, "LEAST_TOKENS", 0)
    asked: list[int] = []

    def seconds(bench, block, tokens):
        asked.append(tokens)
        return {512: 0.1}.get(tokens, 0.2 + 0.01 * len(asked))

    monkeypatch.setattr(pass_search, "_seconds", seconds)
    adapters = []
    for out in ("first", "second"):
        each = replace(cell, root=tmp_path / out)
        run_cell(each)
        assert read_plan(each.folder) == Plan(threads=1, block_size=8, version=VERSION, pass_tokens=512, packed=True)
        adapters.append((each.folder / "adapter" / "adapter_model.safetensors").read_bytes())
        monkeypatch.setattr(pass_search, "_seconds", None)  # the second one asks the cache
    assert adapters[0] == adapters[1]
    assert set(asked) == {512, 1024, 2048, 4096}


def test_a_real_search_ends_with_one_of_the_budgets(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pass_search, "LEAST_TOKENS", 0)
    bench = load_bench(cell)
    found = tokens_for(bench)
    assert found in pass_search.BUDGETS
    (kept,) = (tmp_path / "cache" / "pass_tokens").glob("*/*.json")
    assert files.read_json(kept)["tokens"] == found
    assert all(len(times) == pass_search.TURNS for times in files.read_json(kept)["seconds"].values())


def test_short_runs_and_slow_models_keep_the_default(cell, monkeypatch):
    bench = load_bench(cell)
    monkeypatch.setattr(pass_search, "_seconds", lambda *_: 9.0)
    assert tokens_for(bench) == 1024  # few tokens
    monkeypatch.setattr(pass_search, "LEAST_TOKENS", 0)
    assert pass_search._measured(bench, 1024, [512, 1024]) == {1024: [9.0]}


def test_a_plan_of_version_1_is_finished_by_it(cell):
    """Its passes hold a micro-batch of each client, and its file stays as it was."""
    cell.folder.mkdir(parents=True)
    old = {"threads": 1, "block_size": 4}
    files.write_json(cell.folder / "plan.json", old)
    assert with_passes(load_bench(cell)).model.plan == PassPlan(None, clients=4)
    assert files.read_json(cell.folder / "plan.json") == old


def test_a_run_keeps_packed_or_padded_sequences(cell, monkeypatch, caplog):
    """As its first session began, whatever the model can now; where that cannot be done, a line says so."""
    cell.folder.mkdir(parents=True)
    write_plan(cell.folder, Plan(threads=1, block_size=4, version=VERSION, pass_tokens=512, packed=False))
    assert with_passes(load_bench(cell)).model.plan == PassPlan(512, 4)
    write_plan(cell.folder, Plan(threads=1, block_size=4, version=VERSION, pass_tokens=512, packed=True))
    assert with_passes(load_bench(cell)).model.plan == PassPlan(512, 4, packed=True)
    monkeypatch.setattr("fedllm_bench.training.model.packed.packs", lambda base: "of another device")
    assert with_passes(load_bench(cell)).model.plan == PassPlan(512, 4)
    assert "this run packed its sequences, which cannot be done here: they are padded from now on" in caplog.text


def test_a_plan_of_a_later_version_is_refused_in_one_line_and_stays(cell):
    cell.folder.mkdir(parents=True)
    write_plan(cell.folder, Plan(threads=1, block_size=4, version=7))
    for refused in (lambda: read_plan(cell.folder), lambda: run_cell(cell)):
        with pytest.raises(
            UserError, match=r"plan\.json: got version 7 of the plan, and this one knows 1 and 2; finish"
        ):
            refused()
    assert files.read_json(cell.folder / "plan.json")["version"] == 7


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"threads": 1, "blo',
        "[]",
        '{"block_size": 8, "version": 2}',
        '{"threads": 0, "block_size": 8}',
        '{"threads": "x", "block_size": 8}',
        '{"threads": 1, "block_size": 8, "version": 2, "pass_tokens": -5}',
        '{"threads": 1, "block_size": 8, "version": "2"}',
    ],
)
def test_a_broken_plan_is_one_line(content, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UserError, match=r"plan\.json is broken \(.*\); restore it, or remove it"):
        read_plan(tmp_path)
