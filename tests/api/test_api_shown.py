"""What is given back is one short line in a notebook, and errors of Python say what to do in Python."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import fedllm_bench as fb
from fedllm_bench import api_docs
from fedllm_bench.common.interrupts import Interrupted
from fedllm_bench.data.manifest import Split

MANY = {"metrics": {"heldout": {"methods": {str(n): {"mean": n} for n in range(1000)}}}}
HERE = Path("runs")


def objects() -> dict[str, object]:
    models = {"models": [{"metric": "heldout", "notes": "x" * 1000}], "sides": {"a": ["A"], "b": ["B"]}}
    grid = {**MANY, "grid": {"methods": ["local", "fedavg"], "seeds": [0, 1]}}
    return {
        "Run(folder='runs')": fb.Run(HERE),
        "Grid(folder='runs', methods=['local', 'fedavg'], seeds=[0, 1], failed=0)": fb.Grid(
            folder=HERE, results=grid, runs=(), failed={}
        ),
        "Evaluated(folder='runs', metrics=['heldout'])": fb.Evaluated(
            folder=HERE, results=MANY, page=HERE / "report.html", notes=()
        ),
        "RunComparison(metrics=['heldout'], a=['A'], b=['B'])": fb.RunComparison(models),
        "Diversity(folder='runs', sections=['quantity'])": fb.Diversity(
            folder=HERE, results={"sections": {"quantity": {"gini": [0.5] * 1000}}}, page=HERE / "diversity.html"
        ),
        "PackedRuns(lines=2)": fb.PackedRuns(folder=None, public=("x" * 1000, "y")),
    }


@pytest.mark.parametrize("said", objects())
def test_each_object_is_one_short_line(said: str) -> None:
    assert repr(objects()[said]) == said


def test_a_split_is_one_short_line(tiny_split: Split) -> None:
    assert repr(tiny_split).startswith(f"Split(folder={str(tiny_split.folder)!r}, name='mini-aya', hash=")
    assert repr(tiny_split).endswith(f"clients={len(tiny_split.client_ids)})")


def test_an_interrupted_call_says_that_it_goes_on() -> None:
    assert str(Interrupted(signal.SIGINT)) == "SIGINT: what is done is kept; call it again to go on"
    assert "make the same call again to go on" in api_docs.text()


def test_a_submission_looks_for_its_runs_before_its_statement() -> None:
    with pytest.raises(fb.UserError, match="nowhere: no such folder"):
        fb.submit("nowhere", team="Lab")
