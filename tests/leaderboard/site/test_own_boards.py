"""Rows whose clients have adapters of their own: on boards of their own, against `local`, never beside global ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from board_entries import entry, full
from submitted_runs import small_contents, write_run, write_submission

from fedllm_bench.config import presets
from fedllm_bench.leaderboard.ranking.standing import boards_of
from fedllm_bench.leaderboard.site.board_csv import board_csv
from fedllm_bench.leaderboard.site.board_page import board_page
from fedllm_bench.leaderboard.site.entries import entry_of
from fedllm_bench.leaderboard.submission.bundle import open_bundle
from fedllm_bench.leaderboard.submission.recompute import seed_scores
from fedllm_bench.leaderboard.submit.own_runs import OwnRun


@pytest.fixture(scope="module")
def entries():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.2, 30)

    def made(name, mean, **more):
        return entry(name, full(rng, mean, common=common), **more)

    return [
        made("fedavg", 0.5),
        made("fedprox", 0.51),
        made("ditto", 0.7, personal=True),
        made("pfedme", 0.3, personal=True),
        made("local", 0.4, kind="canary", personal=True),
        made("central", 0.8, kind="canary"),
    ]


@pytest.fixture(scope="module")
def boards(entries):
    return boards_of(entries)


def methods(board):
    return {row.method for row in board.rows}


def test_no_row_of_clients_own_adapters_is_on_a_board_of_global_ones(boards):
    one, own = boards
    assert (one.personal, own.personal) == (False, True)
    assert methods(one) == {"fedavg", "fedprox", "local", "central"}  # canaries warn of metrics wherever they are
    assert methods(own) == {"ditto", "pfedme", "local"}
    assert one.id != own.id
    assert "_own_" in own.id


def test_without_a_method_of_that_kind_there_is_no_such_board(entries):
    (one,) = boards_of([each for each in entries if not each.personal or each.kind == "canary"])
    assert not one.personal
    (own,) = boards_of([each for each in entries if each.method == "ditto"])
    assert own.personal
    assert own.baseline == ""


def test_they_are_compared_with_clients_who_train_alone(boards):
    one, own = boards
    assert one.baseline.endswith("fedavg")
    assert own.baseline.endswith("local")
    verdicts = {row.method: {cell.against.verdict for cell in row.cells.values() if cell.against} for row in own.rows}
    assert verdicts == {"ditto": {"better"}, "pfedme": {"worse"}, "local": set()}
    ranks = {row.method: row.rank_low for row in own.rows}
    assert ranks == {"ditto": 1, "pfedme": 2, "local": None}  # the canary is not ranked


def test_a_page_says_it_above_its_table_and_names_the_right_baseline(boards):
    one, own = (re.sub(r"<[^>]*>", " ", board_page(board, boards, root="")) for board in boards)
    assert "Personalised: each client is scored under an adapter of its own." in own
    assert "own adapters" in own.split("Standings")[0]
    assert "better than local" in own
    assert "FedAvg" not in own
    assert "Personalised" not in one
    assert "Comparisons are with FedAvg of this board" in one
    assert "own adapters, version" in one  # the link to the other board


def test_the_table_of_all_boards_tells_them_apart(boards):
    rows = list(csv.DictReader(io.StringIO(board_csv(boards))))
    found = {(row["method"], row["adapters"]): row for row in rows if row["metric"] == "heldout"}
    assert found["ditto", "own"]["minus_local"] != ""
    assert found["ditto", "own"]["minus_fedavg"] == ""
    assert found["fedprox", "global"]["minus_fedavg"] != ""
    assert found["fedprox", "global"]["minus_local"] == ""
    assert ("ditto", "global") not in found


def test_what_a_run_says_of_its_adapters_decides_its_board(tmp_path: Path):
    """Also of a run whose global adapter answered to a benchmark: that is none that the row is of."""
    contents = small_contents()
    contents["runs/0/config.json"] = json.dumps(presets.load("aya", "ditto", "mini").to_dict()).encode()
    for personal in (True, False):
        results = {"run": {"personal": personal}}
        contents["runs/0/results.json.gz"] = gzip.compress(json.dumps(results).encode(), mtime=0)
        bundle, _ = open_bundle(write_submission(tmp_path / str(personal), contents), contents=False)
        scores = [seed_scores(run) for run in bundle.runs()]
        answered = replace(scores[0].metrics["heldout"], name="mini_exact", benchmark="mini")
        scores = [replace(scores[0], metrics={**scores[0].metrics, "mini_exact": answered})]
        found = entry_of(bundle, scores)
        assert found.personal is personal
        assert ("mini_exact" in found.measures) is not personal
        assert "heldout" in found.measures


def test_no_global_adapter_goes_with_a_submission_of_own_ones(tmp_path: Path):
    """Nothing on the board was scored with it, and under Ditto it is FedAvg's, so that it would look like a copy."""
    folder = write_run(tmp_path, method="ditto")
    assert OwnRun(folder).adapter == folder / "adapter"
    results = json.loads((folder / "results.json").read_text())
    results["run"]["personal"] = True
    (folder / "results.json").write_text(json.dumps(results))
    assert OwnRun(folder).adapter is None
