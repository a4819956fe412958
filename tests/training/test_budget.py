"""A budget of bytes: the round that would pass it is not begun, and the run is a finished one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import assert_refused, outcome, quick, run, words
from scripted_rounds import START, by_client, fails_in_round, scripted_run
from senders import SENDING
from submitted_runs import write_run

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods.registry import make_method
from fedllm_bench.results.budget import MB, budget_block, ended_early
from fedllm_bench.runs.cell import settings_hash
from fedllm_bench.runs.folder import RunFolder
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.budget import Traffic, rounds_within
from fedllm_bench.training.rounds import run_rounds

OF_ROUND = 2 * 3 * 2 * 4  # up and down, clients, numbers, bytes of float32


def within(num_bytes: float) -> str:
    return f"communication.budget_mb={num_bytes / MB!r}"


@pytest.mark.parametrize(
    ("allowed", "rounds"),
    [(OF_ROUND, 1), (2 * OF_ROUND - 1, 1), (2 * OF_ROUND, 2), (3 * OF_ROUND - 1, 2), (3 * OF_ROUND, 3), (1e9, 3)],
)
def test_it_stops_before_the_round_that_would_pass_it(allowed, rounds, tiny_clients, tiny_run_config, tmp_path, caplog):
    config = tiny_run_config("fedavg", within(allowed))
    training, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    with caplog.at_level(logging.WARNING):
        server = run_rounds(training, START)
    records = files.read_jsonl(tmp_path / "rounds.jsonl")
    assert (server.round, len(records)) == (rounds, rounds)
    assert sum(record["bytes_up"] + record["bytes_down"] for record in records) == rounds * OF_ROUND <= allowed
    assert [record["lr"] for record in records] == [config.local.lr_at(number, 3) for number in range(rounds)]
    told = [record.message for record in caplog.records]
    assert (f"after round {rounds} of 3" in " ".join(told)) == (rounds < 3)
    assert len(told) == (rounds < 3)
    again, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    assert run_rounds(again, START).round == rounds  # a resumed run does not go on
    assert engine.asked == []


def test_a_failed_answer_leaves_room_and_a_dropout_needs_none(tiny_clients, tiny_run_config, tmp_path):
    for name in ("failed", "away"):
        (tmp_path / name).mkdir()
    config = tiny_run_config("fedavg", within(3 * OF_ROUND - 8))
    first = schedule(config, 6)[0][0]
    training, _ = scripted_run(fails_in_round(0, first), config, tiny_clients, tmp_path / "failed")
    assert run_rounds(training, START).round == 3
    away = tiny_run_config("fedavg", "faults.dropout=0.5", within(3 * OF_ROUND - 8), seed=3)
    training, _ = scripted_run(by_client, away, tiny_clients, tmp_path / "away")
    assert run_rounds(training, START).round == 3
    assert rounds_within(away, make_method(away), START, schedule(away, 6)) == 3


@pytest.mark.parametrize("method", SENDING)
def test_the_bytes_of_a_client_are_known_before(method, tiny_clients, tiny_run_config, tmp_path):
    """They are those that a round counts, so the last round begun is the last one that fits."""
    config = tiny_run_config(method, "federation.weighting=uniform")
    down, up = Traffic(make_method(config, 6), START, config.local.lr).of_client(0, 0)
    assert min(down, up) >= 8
    small = replace(config, communication=replace(config.communication, budget_mb=(2.5 * 3 * (down + up)) / MB))
    if config.privacy.clip is None:
        assert rounds_within(small, make_method(small, 6), START, schedule(small, 6)) == 2


def test_too_small_for_one_round_is_one_line(tiny_run_config):
    config = tiny_run_config("fedavg", within(OF_ROUND - 1))
    with pytest.raises(UserError, match="the first round alone sends"):
        rounds_within(config, make_method(config), START, schedule(config, 6))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "'200 GB'"])
def test_no_amount_is_refused(value, tiny_run_config):
    with pytest.raises(UserError, match=r"communication\.budget_mb"):
        tiny_run_config("fedavg", f"communication.budget_mb={value}")


def test_where_nothing_is_sent_there_is_no_budget_to_pass(tiny_clients, tiny_run_config, tmp_path):
    for method in ("local", "central"):
        config = tiny_run_config(method, "communication.budget_mb=1e-9")
        assert rounds_within(config, make_method(config), START, schedule(config, 6)) == 3
    config = tiny_run_config("local", "communication.budget_mb=1")
    free = replace(config, communication=replace(config.communication, budget_mb=None))
    assert settings_hash(config, "s", "b") == settings_hash(free, "s", "b")


def test_without_one_nothing_changes(tiny_run_config):
    config = tiny_run_config("fedavg")
    assert "budget_mb" not in config.to_dict()["communication"]
    assert config.hash != tiny_run_config("fedavg", "communication.budget_mb=5").hash
    assert budget_block(config, []) is None
    assert ended_early(config, []) == ""


def test_a_run_that_it_ended_is_finished_and_a_shorter_one_is_not(tmp_path: Path):
    folder = write_run(tmp_path, 0, "fedavg", "communication.budget_mb=5")
    rounds = files.read_jsonl(folder / "rounds.jsonl")
    files.write_jsonl(folder / "rounds.jsonl", rounds[:4])
    assert "4 of 30 rounds" in " ".join(RunFolder(folder).missing())
    results = files.read_json(folder / "results.json")
    budget = {"budget_mb": 5.0, "rounds": 4, "of_rounds": 30, "ended": "so"}
    for stated, is_whole in ((budget, True), ({**budget, "rounds": 5}, False), ({**budget, "ended": ""}, False)):
        files.write_json(folder / "results.json", {**results, "communication": {"budget": stated}})
        assert (list(RunFolder(folder).missing()) == []) == is_whole
    for broken in ([], {"budget": 3}, {"budget": {"ended": True}}):
        files.write_json(folder / "results.json", {**results, "communication": broken})
        assert list(RunFolder(folder).missing())


def test_a_command_says_so_in_its_table_and_results(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    common = ("--model", str(tiny_folder), "--metrics", "heldout", "--set", "federation.rounds=6")
    with quick():
        whole = run("fedavg", tiny_split.folder, tmp_path / "whole", *common, "--set", "evaluation.every=2")
        of_round = files.read_json(whole / "results.json")["cost"]
        allowed = (of_round["bytes_up"] + of_round["bytes_down"]) / MB * 4.5 / 6
        budget = ("--set", f"communication.budget_mb={allowed}", "--set", "evaluation.every=2")
        capsys.readouterr()
        folder = run("fedavg", tiny_split.folder, tmp_path / "out", *common, *budget)
        told = " ".join(capsys.readouterr().out.split())
        results = files.read_json(folder / "results.json")
        found = results["communication"]["budget"]
        assert (found["rounds"], found["of_rounds"]) == (4, 6)
        assert found["ended"] in told
        assert results["cost"]["bytes_up"] + results["cost"]["bytes_down"] <= allowed * MB
        assert [row["round"] for row in results["over_rounds"]["rounds"]] == [0, 2, 4]
        assert list(RunFolder(folder).missing()) == []
        before = outcome(folder)
        (folder / "results.json").unlink()  # as killed before its report
        run("fedavg", tiny_split.folder, tmp_path / "out", *common, *budget)
        assert outcome(folder) == before
        small = words("fedavg", tiny_split.folder, tmp_path / "small", *common, "--set", "communication.budget_mb=1e-6")
        assert_refused(small, tmp_path / "small", capsys, "communication.budget_mb=1e-06", "first round alone")
