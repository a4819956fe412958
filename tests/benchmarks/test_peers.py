"""`make speed-peers` without the peers' packages: what they are given, and what is shown. No time is asserted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedllm_bench.benchmarks.perf import cases, peer_runs, peers, ways
from fedllm_bench.benchmarks.perf.peer_apps import flower_app, pfl_app
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def job(folder) -> dict[str, Any]:
    return peer_runs.make_job("tiny", 2, 1, folder, {"clients": 2, "steps": 1})


def test_peers_get_the_rows_of_our_plan_in_its_order(job):
    case, of_round = cases.CASES["tiny"], cases.Round(clients=2, steps=1, micro_batch=4, accumulation=4, rank=16)
    work = cases.make_work(case, of_round, "sft", job["model"])
    assert len(job["rows"]) == len(job["rates"]) == 2
    for round_num in range(2):
        for client in range(2):
            task = cases.make_task(client, of_round, work.tasks[0].rows, round_num)
            ours = [row.ids.tolist() for micros in ways.planned_rows(task) for rows in micros for row in rows]
            given = flower_app.rows_of(job, round_num, client)
            pairs = list(zip(given["prompt"], given["completion"], strict=True))
            assert [ids for ids, _ in pfl_app.tokenised(work.model.tokenizer, pairs, case.longest)] == ours
    assert job["rows"][0] != job["rows"][1]
    assert job["useful_tokens"] == ways.useful_tokens(work.tasks)
    assert job["processed_tokens"]["flower"] < job["processed_tokens"]["pfl"] == 32 * case.longest


def test_rows_of_pfl_are_padded_to_the_longest_length():
    ids, labels = pfl_app.padded([([5, 6, 7], 1), ([8, 9], 1)], 4)
    assert ids == [[5, 6, 7, 0], [8, 9, 0, 0]]
    assert labels == [[-100, 6, 7, -100], [-100, 9, -100, -100]]


@pytest.mark.slow
def test_clients_of_the_flower_app_end_where_ours_do(job, folder):
    """What a client of the app does needs no Flower: its mean is our adapter of the first round."""
    out = folder / "ours"
    out.mkdir()
    torch.set_num_threads(1)
    peer_runs.run_ours(job, out)
    start = load_file(job["start"])
    ends = [flower_app.train(job, start, 0, client) for client in range(2)]
    theirs = folder / "flower"
    theirs.mkdir()
    save_file({name: (ends[0][name] + ends[1][name]) / 2 for name in start}, theirs / "1.safetensors")
    assert 0 < peer_runs.apart(out, theirs, Path(job["start"])) < 1e-3
    save_file({name: ends[0][name] for name in start}, theirs / "1.safetensors")
    with pytest.raises(RuntimeError, match="flower trained another adapter: relative L2"):
        peer_runs.apart(out, theirs, Path(job["start"]))
    found = files.read_json(out / "times.json")
    assert len(found["times"]) == 3
    assert found["bytes"][0] == sum(tensor.nbytes for tensor in start.values())


def test_what_cannot_be_installed_says_why_and_is_tried_again(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path))
    seen = []

    def broken(words: list[str]) -> None:
        seen.append(words)
        raise UserError("it could not be installed (ERROR: no network)")

    monkeypatch.setattr(peer_runs, "_installed", broken)
    for _ in range(2):
        with pytest.raises(UserError, match="no network"):
            peer_runs.environment_of("flower")
    assert len(seen) == 2
    monkeypatch.setattr(peer_runs, "_installed", seen.append)
    python = peer_runs.environment_of("flower")
    assert python.parts[-2:] == ("bin", "python")
    assert seen[-1][-len(peer_runs.ROOTS["flower"]) :] == list(peer_runs.ROOTS["flower"])
    count = len(seen)
    assert peer_runs.environment_of("flower") == python
    assert len(seen) == count  # built once


def test_pip_is_asked_once_and_its_last_error_is_told():
    with pytest.raises(UserError, match=r"it could not be installed \(ERROR: no such thing\)"):
        peer_runs._installed([sys.executable, "-c", "import sys; sys.exit('warning\\nERROR: no such thing\\nhint')"])


def test_every_root_is_pinned():
    for name, roots in peer_runs.ROOTS.items():
        pins = (peer_runs.APPS / f"{name}.txt").read_text()
        for root in roots:
            assert f"\n{root.partition('[')[0]}==" in pins
        assert "http" not in pins.replace("httpcore", "").replace("httpx", "").replace("httptools", "")


def run_of(first: float, later: float, seconds: float, peak: int) -> dict[str, Any]:
    return {"rounds": (first, later, later), "seconds": seconds, "peak": peak, "sent": 65536}


def test_later_rounds_are_compared_turn_by_turn():
    found = {
        "case": "tiny",
        "shape": {"clients": 4, "steps": 10, "accumulation": 4, "micro_batch": 4, "useful_tokens": 1000, "rounds": 3},
        "runs": {
            "ours": [run_of(2.0, 1.0, 10.0, 4 * 10**8), run_of(2.0, 2.0, 10.0, 5 * 10**8)],
            "flower": [run_of(9.0, 4.0, 40.0, 2 * 10**9), run_of(9.0, 6.0, 40.0, 2 * 10**9)],
        },
        "useful_share": {"ours": 0.9, "flower": 0.75},
        "relative_l2": {"flower": 1e-5},
        "skipped": {"pfl": "it could not be installed (no network)"},
        "environment": {"cpu": {"name": "a processor", "count": 2}, "threads": 1, "packages": dict.fromkeys(
            ("torch", "transformers", "peft", "trl"), "1")},
    }  # fmt: skip
    lines = peers.as_table(found).splitlines()
    ours, flower = (" ".join(line.split()) for line in lines[2:4])
    assert ours == "ours 2.00 1.50 1.00x [1.00, 1.00] 10.0 1.00x 667 0.90 500.0 MB 65.5 kB"
    assert flower == "flower 9.00 5.00 3.50x [3.00, 4.00] 40.0 4.00x 200 0.75 2.0 GB 65.5 kB"
    assert lines[4] == "flower: same adapter after round 1, relative L2 1.0e-05"
    assert lines[5] == "pfl: skipped, it could not be installed (no network)"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--case=large"], "--case: got 'large'; there are tiny, small"),
        (["--peers=flower,fedml"], "--peers: got 'fedml'; there are flower, pfl"),
        (["--rounds=1"], "--rounds: got 1, give 2 or more"),
        (["--turns=0"], "--turns: got 0, give 1 or more"),
        (["--steps=0"], "--steps: got 0, give 1 or more"),
    ],
)
def test_what_is_wrong_is_one_line(words, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(peers, "measure", lambda *_: pytest.fail("it measured"))
    assert peers.main([*words, f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"peers: {expected}\n"


@pytest.mark.slow
def test_a_peer_that_fails_is_skipped_and_ours_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "environment_of", lambda name: Path(sys.executable))  # it has neither Flower nor pfl
    words = ["--peers=pfl", "--clients=1", "--steps=1", "--rounds=2", "--turns=1", "--threads=1", f"--out={tmp_path}"]
    assert peers.main(words) == 0
    (path,) = tmp_path.glob("peers_*.json")
    found = files.read_json(path)
    assert found["runs"].keys() == {"ours"}
    assert len(found["runs"]["ours"][0]["rounds"]) == 2
    assert found["runs"]["ours"][0]["peak"] > 10**8
    assert "ModuleNotFoundError: No module named 'pfl'" in found["skipped"]["pfl"]
    assert "pfl: skipped, it failed" in capsys.readouterr().out
