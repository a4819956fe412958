"""`fedllm-bench bench` on a sample of held-out rows: the same rows on every side, counted apart, and said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quick, run

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.results.schema import check_results

SAMPLE = ("--set", "evaluation.heldout_rows=7", "--set", "evaluation.clients=3")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(tiny_split: Split, out: Path) -> Path:
    return run("fedavg", tiny_split.folder, out, *SAMPLE)


def rows_of(folder: Path, side: str, metric: str = "heldout") -> set[tuple[str, str]]:
    return {(score["cluster"], score["item_id"])
            for score in files.read_jsonl(folder / "scores" / f"{metric}.{side}.jsonl")}  # fmt: skip


def data_of(folder: Path) -> dict[str, Any]:
    results = files.read_json(folder / "results.json")
    check_results(results)
    return dict(results["data"])


def test_base_after_local_every_method_and_seed_have_the_same_rows(done: Path, out: Path, tiny_split: Split):
    found = rows_of(done, "before")
    assert len(found) == 7 + 7
    assert rows_of(done, "after") == found
    other = run("fedprox", tiny_split.folder, out / "other", *SAMPLE, "--seed", "3")
    assert rows_of(other, "before") == rows_of(other, "after") == found
    (local,) = (path for path in (out / "mini-aya" / "local").iterdir() if path.is_dir())
    own = set(data_of(done)["local_clients"])
    assert len(own) == 2
    assert rows_of(local, "after") == {row for row in found if row[0] in own} != set()
    exact = rows_of(done, "after", "mini_exact")
    assert exact == {row for row in found if row[0] in {client.id for client in tiny_split.manifest.clients}}


def test_what_is_left_out_by_plan_is_counted_apart(done: Path, tiny_split: Split):
    results, manifest = files.read_json(done / "results.json"), tiny_split.manifest
    assert results["data"]["sample"] == {
        "num_heldout_rows": 7,
        "of_heldout_rows": sum(client.heldout for client in manifest.clients),
        "num_heldout_clients": 3,
        "of_heldout_clients": 6,
        "num_unseen_rows": 7,
        "of_unseen_rows": sum(user.heldout for user in manifest.unseen),
        "num_unseen_clients": 3,
        "of_unseen_clients": len(manifest.unseen),
    }
    for name, scored in (("heldout", 7), ("heldout_unseen", 7)):
        for side in ("before", "after"):
            entry = results["metrics"][name][side]
            assert (entry["n_scored"], entry["n_unscored"], entry["n"]) == (scored, 0, 3)


def test_the_terminal_and_the_page_say_it_in_one_line(done: Path, tiny_split: Split, out: Path, capsys):
    from fedllm_bench import cli

    run("fedavg", tiny_split.folder, out, *SAMPLE)  # finished before: shows the table again
    heldout = sum(client.heldout for client in tiny_split.manifest.clients)
    line = f"scored on 7 of {heldout} held-out rows, of 3 of 6 clients"
    assert line in " ".join(capsys.readouterr().out.split())
    assert cli.main(["report", str(done)]) == 0
    assert line in (done / "report.html").read_text(encoding="utf-8")


def test_a_sample_that_is_everything_is_a_whole_run_that_shares_the_base_scores(
    tiny_split: Split, out: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = run("fedavg", tiny_split.folder, out / "whole")
    assert data_of(whole)["sample"] is None
    places = sorted((files.cache_root() / "base_scores").iterdir())
    more = run("fedavg", tiny_split.folder, out / "more", "--set", "evaluation.heldout_rows=100000")
    assert data_of(more)["sample"] is None
    assert sorted((files.cache_root() / "base_scores").iterdir()) == places
    assert rows_of(more, "before") == rows_of(whole, "before")


@pytest.mark.parametrize("method", ["fedavg", "local"])
def test_one_row_is_enough_for_a_run_that_ends_well(tiny_split: Split, out: Path, method: str):
    folder = run(method, tiny_split.folder, out / "one", "--set", "evaluation.heldout_rows=1")
    entry = files.read_json(folder / "results.json")["metrics"]["heldout"]
    assert (entry["after"]["n"], entry["after"]["n_scored"], entry["after"]["ci_low"]) == (1, 1, None)
