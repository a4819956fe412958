"""The submissions that are shipped: made by the command, accepted by the checks, and on the board as pandas counts."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from bench_runs import quiet_environment
from shipped import SUBMISSIONS, shipped, shipped_as

from fedllm_bench.leaderboard.submit.canaries import CANARIES

pytestmark = pytest.mark.slow
METHODS = {"local", "fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam"}
MOST = 10_000_000  # bytes in all
OF_CLIENTS = ("heldout", "mini_exact", "mini_choice")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return quiet_environment(tmp_path_factory.mktemp("cache"))


def command(environment, *words):
    """In a process of its own, as a maintainer runs it; its exit code."""
    done = subprocess.run([sys.executable, "-m", "fedllm_bench", "board", *map(str, words)], env=environment, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def checked(environment, tmp_path_factory):
    target = tmp_path_factory.mktemp("checked") / "problems.json"
    everybodys = sorted(path for path in SUBMISSIONS.iterdir() if path.is_dir())
    code = command(environment, "validate", *everybodys, "--jobs", 2, "--json", target)
    return code, json.loads(target.read_text())


@pytest.fixture(scope="module")
def boards(checked, environment, tmp_path_factory):
    """Of what is shipped, without what others have added."""
    own, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("board") / "site"
    for folder in shipped():
        shutil.copytree(folder, own / folder.name)
    assert command(environment, "build", "--submissions", own, "--out", out) == 0
    return {board["judge"]: board for board in json.loads((out / "board.json").read_text())["boards"]}


def heads():
    return [json.loads((folder / "submission.json").read_text()) for folder in shipped()]


def test_they_are_the_eight_methods_and_the_canaries_under_three_seeds():
    shown = {head["method"]: head for head in heads()}
    assert set(shown) == METHODS | {canary.title for canary in CANARIES.values()}
    assert len(METHODS & set(shown)) == 8
    assert {head["track"] for head in shown.values()} == {"mini-aya/fixed"}
    trained = METHODS | {"central"}
    assert {name: [run["seed"] for run in shown[name]["runs"]] for name in trained} == {
        name: [0, 1, 2] for name in trained
    }
    assert len({head["suite"]["commit"] for name, head in shown.items() if name in trained}) == 1
    assert sum(path.stat().st_size for folder in shipped() for path in folder.rglob("*") if path.is_file()) <= MOST


def test_all_are_accepted_and_those_of_others_too(checked):
    code, found = checked
    assert code == 0, [problem for report in found["reports"] for problem in report["problems"]]
    tiers = {Path(report["path"]).name: report["tier"] for report in found["reports"]}
    assert len(tiers) == len(found["reports"]) >= len(shipped()) == 12
    assert {tiers[folder.name] for folder in shipped()} == {"recomputed"}


def test_both_boards_rank_the_seven_methods_and_raise_no_alarm(boards):
    assert len(boards) == 2
    for board in boards.values():
        ranked = [row for row in board["rows"] if row["rank_low"]]
        assert {row["method"] for row in ranked} == METHODS - {"local"}
        assert {row["kind"] for row in board["rows"] if not row["rank_low"]} == {"canary"}
        assert board["alarms"] == []
        assert board["baseline"] == next(row["slug"] for row in ranked if row["method"] == "fedavg")


def lines(path):
    return pd.DataFrame([json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()])


def mean_of_scores(path):
    rows = lines(path)
    rows = rows[rows.group.map(lambda group: group["part"] == "heldout")].copy()  # not unseen users
    rows["part"] = rows.value * rows.weight
    sums = rows.groupby("cluster")[["part", "weight"]].sum()
    return (sums.part / sums.weight).mean()


def mean_of_verdicts(path):
    ratings = lines(path).reply.map(lambda reply: float(re.search(r"\[\[(\d+)\]\]", reply["text"])[1]))
    return ratings.mean()


def test_the_boards_means_are_those_of_pandas_on_the_raw_records(boards):
    seen = 0
    for board in boards.values():
        for row in (row for row in board["rows"] if row["rank_low"]):
            for name, cell in row["cells"].items():
                for seed, value in cell["by_seed"].items():
                    run = SUBMISSIONS / row["slug"] / "runs" / seed
                    if name in OF_CLIENTS:
                        again = mean_of_scores(run / "scores" / f"{name}.after.jsonl.gz")
                    else:
                        again = mean_of_verdicts(run / "judgements" / board["judge"] / "mini" / "global.jsonl.gz")
                    assert value == pytest.approx(again, rel=1e-9), (row["slug"], name, seed)
                    seen += 1
    assert seen == 7 * 3 * (3 + 4)


def test_a_shipped_row_is_retrained_with_the_shipped_band(environment, tmp_path):
    """FedAvg under one of its seeds, on whatever machine this is: not better than claimed by more than seeds differ."""
    fedavg = shipped_as("fedavg")
    mine = shutil.copytree(fedavg, tmp_path / fedavg.name)
    assert command(environment, "retrain", mine, "--name", "A. Maintainer", "--seed", 0) == 0
    (record,) = (json.loads(path.read_text()) for path in (mine / "records").iterdir())
    assert (record["tier"], record["outcome"]) == ("retrained", "passed")
    assert set(record["details"]) >= set(OF_CLIENTS)
    target = tmp_path / "problems.json"
    assert command(environment, "validate", mine, "--json", target) == 0
    assert json.loads(target.read_text())["reports"][0]["tier"] == "retrained"
