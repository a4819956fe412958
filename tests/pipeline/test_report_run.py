"""What a run's report says of clients that were never chosen and of answers that were left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import quick, run

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.pipeline.results_stage import failures_of
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs.score_files import read_scores
from fedllm_bench.scores.summaries import per_cluster

ONE_ROUND = ("--set", "federation.rounds=1", "--set", "evaluation.local_clients=0")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def folders(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One round of three of six clients, under a global and a personal method."""
    out = tmp_path_factory.mktemp("runs")
    less = ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice")
    return {method: run(method, tiny_split.folder, out, *less, *ONE_ROUND) for method in ("fedavg", "local")}


def test_clients_whom_the_schedule_never_chose_are_listed(folders: dict[str, Path], tiny_split: Split):
    ids = {client.id for client in tiny_split.manifest.clients}
    for folder in folders.values():
        results = files.read_json(folder / "results.json")
        check_results(results)
        (first,) = files.read_jsonl(folder / "rounds.jsonl")
        assert set(results["data"]["never_visited"]) == ids - set(first["client_ids"])
        assert len(results["data"]["never_visited"]) == 3
        assert set(results["data"]["local_clients"]) == ids
        assert results["cost"]["num_answers"] == 3
        assert results["cost"]["failures"] == []


def test_under_local_they_stay_at_the_base_and_count_in_the_mean(folders: dict[str, Path]):
    results = files.read_json(folders["local"] / "results.json")
    assert results["run"]["personal"] is True
    never = set(results["data"]["never_visited"])
    rows = results["clients"]["heldout"]
    for row in rows:
        assert (abs(row["after"] - row["before"]) < 1e-4) == (row["client"] in never)
    assert results["metrics"]["heldout"]["after"]["n"] == len(rows) == 6
    found = results["metrics"]["heldout"]["distribution"]
    assert found["num_better"] + found["num_worse"] == 3


def test_under_a_global_method_they_use_the_global_adapter(folders: dict[str, Path]):
    results = files.read_json(folders["fedavg"] / "results.json")
    assert results["run"]["personal"] is False
    assert all(row["after"] != row["before"] for row in results["clients"]["heldout"])


def test_with_all_clients_alone_the_difference_to_them_is_that_of_the_columns(folders: dict[str, Path]):
    entry = files.read_json(folders["fedavg"] / "results.json")["metrics"]["heldout"]
    columns = entry["after"]["mean"] - entry["local"]["mean"]
    assert entry["difference_to_local"]["mean"] == pytest.approx(columns)
    assert entry["local"] == files.read_json(folders["local"] / "results.json")["metrics"]["heldout"]["after"]


def test_the_rows_of_clients_are_the_means_of_the_raw_scores(folders: dict[str, Path]):
    results = files.read_json(folders["fedavg"] / "results.json")
    for metric, rows in results["clients"].items():
        scores = read_scores(folders["fedavg"], "after", [metric])[metric]
        raw = per_cluster(score for score in scores if score.group.get("part") != "unseen")
        assert {row["client"]: row["after"] for row in rows} == {client: c.mean for client, c in raw.items()}


def test_failures_are_found_in_the_order_of_rounds():
    rounds = [
        {"round": 1, "client_ids": ["a", "b"], "failures": [None, "loss nan"]},
        {"round": 2, "client_ids": [], "failures": []},
        {"round": 3, "client_ids": ["b", "c"], "failures": ["loss inf", None]},
    ]
    assert failures_of(rounds) == [
        {"round": 1, "client": "b", "reason": "loss nan"},
        {"round": 3, "client": "b", "reason": "loss inf"},
    ]
