"""The bands that are shipped: of the cells and seeds of the submissions beside them."""

from __future__ import annotations

import gzip
import json
import math
import statistics

import pytest
from bench_runs import code_of
from checkout import ROOT
from shipped import shipped_as

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.leaderboard.submission.bundle import open_bundle
from fedllm_bench.leaderboard.tiers.bands import FEWEST, SHIPPED, band_of, read_band, shipped_bands
from fedllm_bench.leaderboard.tiers.retraining import shipped_band

LEADERBOARD = ROOT / "leaderboard"
METHODS = ("local", "fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam", "central")
RANKED = {"heldout", "mini_exact", "mini_choice"}


def of_method(name):
    return open_bundle(shipped_as(name))[0]


def test_each_trained_cell_of_mini_aya_has_one():
    bands = shipped_bands()
    assert sorted(band.config["method"]["name"] for band in bands) == sorted(METHODS)
    assert {tuple(band.seeds) for band in bands} == {(0, 1, 2, 3, 4)}
    assert len({(band.split_hash, band.base_hash) for band in bands}) == 1
    assert all(set(band.metrics) >= RANKED for band in bands)
    assert all(spread.sd > 0 for band in bands for spread in band.metrics.values())


@pytest.mark.parametrize("name", METHODS)
def test_the_shipped_submission_is_of_the_seeds_that_the_band_is_of(name):
    """No one of n values is farther from their mean than (n - 1) / sqrt(n) sample deviations (Samuelson, 1968)."""
    bundle = of_method(name)
    band = shipped_band(bundle.runs()[0])
    assert band.config["method"]["name"] == name
    farthest = (FEWEST - 1) / math.sqrt(FEWEST)
    for seed in (0, 1, 2):
        path = bundle.folder / "runs" / str(seed) / "results.json.gz"
        metrics = json.loads(gzip.decompress(path.read_bytes()))["metrics"]
        for metric in RANKED:
            spread = band.metrics[metric]
            assert abs(metrics[metric]["after"]["mean"] - spread.mean) <= farthest * spread.sd + 1e-9


def test_a_cell_of_which_none_is_shipped_says_what_to_do(monkeypatch):
    run = of_method("fedavg").runs()[0]
    monkeypatch.setattr("fedllm_bench.leaderboard.tiers.retraining.shipped_bands", lambda: [])
    with pytest.raises(UserError, match=r"no band of fedavg .* give --band RUN RUN"):
        shipped_band(run)


def without(values, *keys):
    return {key: value for key, value in values.items() if key not in keys}


def config_of(seed):
    model = ["model.name=/home/me/models/llama"]
    return {**presets.load("aya", "fedavg", "mini", model, seed=seed).to_dict(), "split": "/home/me/split"}


def run_folders(root, values, **other):
    for seed, value in enumerate(values):
        folder = root / f"s{seed}"
        folder.mkdir(parents=True)
        metrics = {"heldout": {"after": {"mean": value}, "higher_is_better": False}, "lost": {"after": {"mean": None}}}
        contents = {
            "config": {**config_of(seed), **other},
            "environment": {"data": {"split_hash": "s", "base_hash": "b"}},
            "results": {"metrics": metrics},
        }
        for name, content in contents.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
    return sorted(root.iterdir())


def test_a_band_is_the_mean_and_sample_deviation_of_the_runs_and_names_no_place(tmp_path):
    values = [0.2, 0.25, 0.21, 0.3, 0.24]
    band = band_of(run_folders(tmp_path, values))
    assert band.seeds == [0, 1, 2, 3, 4]
    assert list(band.metrics) == ["heldout"]  # where a run has no mean there is no band
    spread = band.metrics["heldout"]
    assert (spread.mean, spread.sd) == pytest.approx((statistics.mean(values), statistics.stdev(values)), rel=1e-12)
    config = config_of(0)
    assert band.config == {**without(config, "seed", "split"), "model": {**config["model"], "name": "llama"}}


def test_runs_of_two_cells_or_of_few_seeds_are_no_band(tmp_path, capsys):
    few = run_folders(tmp_path / "few", [0.1] * 4)
    assert code_of(["board", "band", *map(str, few), "--out", str(tmp_path / "band.json")]) == 2
    assert "at least 5 seeds, one run for each seed; got seeds 0, 1, 2, 3" in capsys.readouterr().err
    other = run_folders(tmp_path / "other", [0.1] * 5, method={"name": "local", "constants": {}})
    assert code_of(["board", "band", *map(str, [*few, *other]), "--out", str(tmp_path / "band.json")]) == 2
    assert "the runs differ in method.name" in capsys.readouterr().err
    assert code_of(["board", "band", str(tmp_path / "none"), "--out", str(tmp_path / "band.json")]) == 2
    assert "none: no finished run there" in capsys.readouterr().err
    assert not (tmp_path / "band.json").exists()


BROKEN = {
    "no config": ("config.json", None, "got seeds 1, 2, 3, 4"),  # as a folder of runs, with none in it
    "config is cut": ("config.json", "{", "config.json is not JSON"),
    "config of nothing": ("config.json", "{}", "config.json is not of this version"),
    "no environment": ("environment.json", None, "environment.json is not there"),
    "no hashes": ("environment.json", '{"data": {"split_hash": 3}}', "does not name its split and base"),
    "results are a list": ("results.json", "[]", "results.json is no JSON object"),
    "no metrics": ("results.json", "{}", "results.json of a run is not of this version"),
    "a mean is a text": (
        "results.json",
        '{"metrics": {"heldout": {"after": {"mean": "0.1"}, "higher_is_better": false}}}',
        "results.json of a run is not of this version",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_run_folder_is_one_line(tmp_path, capsys, case):
    name, content, told = BROKEN[case]
    folders = run_folders(tmp_path / "runs", [0.2, 0.25, 0.21, 0.3, 0.24])
    (folders[0] / name).unlink()
    if content is not None:
        (folders[0] / name).write_text(content)
    code = code_of(["board", "band", *map(str, folders), "--out", str(tmp_path / "band.json")])
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "band.json").exists()


def test_the_command_writes_what_retrain_reads(tmp_path, capsys):
    folder = run_folders(tmp_path / "fedavg", [0.2, 0.25, 0.21, 0.3, 0.24])[0].parent
    assert code_of(["board", "band", str(folder), "--out", str(tmp_path / "band.json")]) == 0
    assert "seeds 0, 1, 2, 3, 4" in capsys.readouterr().out
    assert read_band(tmp_path / "band.json") == band_of(sorted(folder.iterdir()))


def test_a_band_that_was_changed_is_refused(tmp_path):
    path = sorted((LEADERBOARD / SHIPPED).glob("*.json"))[0]
    found = json.loads(path.read_text())
    found["metrics"]["heldout"]["sd"] = "0.1"
    (tmp_path / "band.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"is no band .* make one of runs of 5 seeds"):
        read_band(tmp_path / "band.json")
