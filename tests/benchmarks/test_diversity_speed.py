"""benchmarks/perf/diversity.py: what it measures is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_model import encoder_folder

from fedllm_bench.benchmarks.perf.diversity import main, make_rows, side_by_side
from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.embedding.settings import EncoderSettings


def test_rows_are_as_many_as_asked_for_and_repeat_as_said() -> None:
    rows = make_rows(2000, 40, 0.3, seed=0)
    assert len(rows) == 2000
    assert len({row.client for row in rows}) == 40
    assert len({row.prompt for row in rows}) / 2000 == pytest.approx(0.7, abs=0.04)
    lengths = [len(row.prompt.split()) for row in make_rows(2000, 40, 0.0, seed=0)]
    assert np.median(lengths) == pytest.approx(30, abs=3)
    assert make_rows(50, 5, 0.3, seed=0) == make_rows(50, 5, 0.3, seed=0) != make_rows(50, 5, 0.3, seed=1)


def test_every_stage_is_timed(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["--rows", "150", "--clients", "6", "--permutations", "3", "--json", str(out)]) == 0
    (records,) = json.loads(out.read_text()).values()
    assert [record["stage"] for record in records] == [
        "embed",
        "embed, kept",
        "bandwidth",
        "features",
        "MMD of pairs",
        "cosines",
        "clusters",
        "map",
        "index in strata",
        "index over all",
    ]
    assert all(record["peak_mb"] > 0 for record in records)


@pytest.mark.slow
def test_both_ways_of_encoding_give_the_same_and_the_cache_is_faster() -> None:
    texts = [row.prompt for row in make_rows(24, 3, 0.2, seed=0)]
    arrival, _, kept = side_by_side(texts, EncoderSettings(name=str(encoder_folder()), device="cpu"))
    assert arrival["times_faster"] == 1.0
    assert kept["times_faster"] > 2
    with pytest.raises(UserError, match="LSA has no batches"):
        side_by_side(texts, EncoderSettings(name="lsa"))
