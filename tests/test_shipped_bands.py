"""The bands that are shipped: of the cells and seeds of the submissions beside them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from shipped import shipped_as

from fedllm_bench.errors import UserError
from fedllm_bench.leaderboard.bands import FEWEST, SHIPPED, read_band, shipped_bands
from fedllm_bench.leaderboard.bundle import open_bundle
from fedllm_bench.leaderboard.retraining import shipped_band

LEADERBOARD = Path(__file__).parents[1] / "leaderboard"
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
    monkeypatch.setattr("fedllm_bench.leaderboard.retraining.shipped_bands", lambda: [])
    with pytest.raises(UserError, match=r"no band of fedavg .* give --band RUN RUN"):
        shipped_band(run)


def test_a_band_that_was_changed_is_refused(tmp_path):
    path = sorted((LEADERBOARD / SHIPPED).glob("*.json"))[0]
    found = json.loads(path.read_text())
    found["metrics"]["heldout"]["sd"] = "0.1"
    (tmp_path / "band.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"is no band .* make one of runs of 5 seeds"):
        read_band(tmp_path / "band.json")
