"""The mini variants of the training sets: their splits, and runs from the command to the results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import TINY, quick
from sweeps import sweep

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.config import presets
from fedllm_bench.data.build.pipelines import TRAINING_SETS, load_pipeline
from fedllm_bench.data.manifest import Split
from fedllm_bench.mini import dataset
from fedllm_bench.mini.dataset import mini_split
from fedllm_bench.mini.probes import load_probes, probe_key
from fedllm_bench.mini.tables import ROWS, build_table
from fedllm_bench.mini.users import Population

SMALL = Population(seed=3, num_users=16, num_below_cut=4, num_names=8)
RELEASED = [name for name in TRAINING_SETS if load_pipeline(name, variant="released").DECLARATION.recipe.is_released]
QUICK = ("fed_gsm8k", "ultrafeedback")  # the others are made by the same code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits")


def made(folder: Path, name: str, variant: str = "paper") -> Split:
    return build_table(name, SMALL, folder / f"{name}-{variant}", variant)


@pytest.mark.parametrize("name", sweep(ROWS, *QUICK))
def test_every_held_out_row_has_a_probe(folder, name):
    split = made(folder, name)
    assert split.name == f"mini-{name}"
    assert split.manifest.dataset == name
    assert split.manifest.licence.endswith("(generated)")
    probes = load_probes(split)
    rows = split.task_rows("heldout")
    assert len(rows) > 100
    assert len([row for row in rows if probe_key(row) in probes]) >= 0.95 * len(rows)
    assert {probe.task for probe in probes.values()} >= {"facts", "arithmetic", "translation"}
    for (_, _, completion), probe in probes.items():
        assert not probe.choices or probe.choices[0] == completion or probe.task == "facts"
    config = presets.load(name, "fedavg", "mini")
    config.federation.check(len(split.manifest.clients))
    assert split.task == config.data.task


@pytest.mark.parametrize("name", sweep(RELEASED, "hh_rlhf"))
def test_variant_released_is_another_split_with_held_out_rows(folder, name):
    assert len(RELEASED) == 8
    split = made(folder, name, "released")
    assert split.manifest.recipe["partition"].startswith("released:")
    assert all(client.heldout for client in split.manifest.clients)
    assert load_probes(split)
    assert any("released cut" in note for note in split.manifest.notes) == (name == "hh_rlhf")


def test_a_split_is_made_once_for_each_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "Population", lambda seed: replace(SMALL, seed=seed))
    first = mini_split("fed_gsm8k", 0, tmp_path)
    assert mini_split("fed_gsm8k", 0, tmp_path).folder == first.folder
    assert len([path for path in (tmp_path / "splits").iterdir() if path.is_dir()]) == 1


def bench(name: str, tiny_folder: Path, out: Path, *more: str) -> dict[str, object]:
    """A run of the command alone: it makes the split itself, of a smaller world than that of profile mini."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = ["bench", name, "fedavg", "--profile", "mini", "--model", str(tiny_folder), "--out", str(out)]
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "Population", lambda seed: replace(SMALL, seed=seed))
        patch.setenv("FEDLLM_BENCH_CACHE", str(out / "cache"))
        assert cli.main([*words, *settings, "--set", "evaluation.heldout_rows=40", *more]) == 0
    (path,) = (out / f"mini-{name}" / "fedavg").glob("s0-*/results.json")
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more", "metrics"),
    [
        ("alpaca_gpt4", (), {"heldout", "mini_exact", "mini_choice"}),
        ("fed_dolly", (), {"heldout", "mini_exact", "mini_choice"}),
        ("flowertune_code", (), {"heldout", "mini_exact", "mini_choice"}),
        ("hh_rlhf", ("--variant", "released"), {"preference_loss", "preference_accuracy"}),
    ],
)
def test_a_run_ends_with_results(name, more, metrics, tiny_folder, tmp_path, capsys):
    results = bench(name, tiny_folder, tmp_path, *more)
    assert metrics <= results["metrics"].keys()  # type: ignore[attr-defined]
    (config,) = (tmp_path / f"mini-{name}" / "fedavg").glob("s0-*/config.json")
    budget = files.read_json(config)["communication"].get("budget_mb")
    assert budget == (200000.0 if name.startswith("flowertune") else None)
