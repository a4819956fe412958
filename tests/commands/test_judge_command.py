"""`fedllm-bench judge` from answers to judgements, against a judge on this machine; requests are counted there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import Body, JudgeServer, Said, fails, judge_server, says
from judged import write_answers

from fedllm_bench import cli
from fedllm_bench.evaluation.judges import asking
from fedllm_bench.evaluation.judges.preset import load_judge
from fedllm_bench.evaluation.records import Answer, Judgement, read_records, write_records
from fedllm_bench.evaluation.scoring.answered import read_folder

needs_mirror = pytest.mark.assets


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for benchmark in ("advbench", "ref_gpt4"):
        for side in ("base", "global"):
            write_answers(folder, benchmark, side)
    return folder


def write_judge(folder: Path, server: JudgeServer | None, more: str = "", **limits: Any) -> Path:
    path = folder / "my-judge.toml"
    address = server.address if server else "http://127.0.0.1:9/v1"
    rows = "".join(f"{key} = {value}\n" for key, value in {"tries": 3, "concurrency": 2, **limits}.items())
    path.write_text(f'model = "m"\nbase_url = "{address}"\n{more}\n[limits]\n{rows}')
    return path


def judge(folder: Path, *words: object) -> int:
    return cli.main(["judge", str(folder), *map(str, words)])


def judgements(folder: Path, judge_file: Path) -> dict[str, list[Judgement]]:
    root = folder / "judgements" / load_judge(str(judge_file)).id
    return {f"{p.parent.name}/{p.stem}": read_records(p, Judgement) for p in sorted(root.rglob("*.jsonl"))}


def rates_by_side(body: Body, before: int) -> Said:
    return says("Rating: [[2]]" if "base on" in body["messages"][-1]["content"] else "Rating: [[4]]")


def test_without_a_judge_answers_are_kept_and_metrics_are_unscored(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(run_folder) == 0
    out = capsys.readouterr().out
    assert "advbench: answers of base, global are kept; judge metrics are unscored: no judge" in out
    assert "gpt-4-1106-preview" in out
    assert not (run_folder / "judgements").exists()


def test_every_answer_is_judged_once_and_nothing_is_asked_again(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with judge_server(rates_by_side) as server:
        mine = write_judge(tmp_path, server)
        assert judge(run_folder, "--judge", mine) == 0
        out = capsys.readouterr().out
        assert server.requests == len(server.times) == 2 * 2 * 2
        first = judgements(run_folder, mine)
        assert judge(run_folder, "--judge", mine) == 0
        assert "none: every question has its reply" in capsys.readouterr().out
        assert judgements(run_folder, mine) == first
        assert server.requests == 8
    assert out.splitlines()[-1] == "Replied    judge-0613 (8)"  # another name than was asked for
    assert [line.split() for line in out.splitlines()[-5:-1]] == [
        ["ref_gpt4", "base", "2.000", "2/2"],
        ["ref_gpt4", "global", "4.000", "2/2"],
        ["advbench", "base", "2.000", "2/2"],
        ["advbench", "global", "4.000", "2/2"],
    ]
    assert list(first) == ["advbench/base", "advbench/global", "ref_gpt4/base", "ref_gpt4/global"]
    assert all(j.reply and j.reply.model == "judge-0613" for own in first.values() for j in own)
    record = json.loads(next((run_folder / "judgements").glob("*/judge.json")).read_text())
    assert (record["model"], record["name"]) == ("m", "my-judge")


def test_equal_answers_are_asked_about_once(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("base", "global"):
        write_answers(run_folder, "advbench", side, {"0": ("same",), "1": ("same",)})
    with judge_server(lambda body, before: says("[[1]]")) as server:
        assert judge(run_folder, "--judge", write_judge(tmp_path, server), "--metrics", "advbench") == 0
        assert server.requests == 2
    assert "Requests   2" in capsys.readouterr().out  # counted once too


def test_an_answer_that_changed_is_judged_again_and_alone(run_folder: Path, tmp_path: Path) -> None:
    with judge_server(rates_by_side) as server:
        mine = write_judge(tmp_path, server)
        judge(run_folder, "--judge", mine, "--metrics", "advbench", "--sides", "global")
        write_answers(run_folder, "advbench", "global", {"1": ("another",)})
        judge(run_folder, "--judge", mine, "--metrics", "advbench", "--sides", "global")
        assert server.requests == 3
    assert list(judgements(run_folder, mine)) == ["advbench/global"]


def test_replies_of_a_folder_from_elsewhere_are_not_asked_for_and_do_not_enter_the_store(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judge_server(rates_by_side) as server:
        mine = write_judge(tmp_path, server)
        judge(run_folder, "--judge", mine)
        first = judgements(run_folder, mine)
        monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "elsewhere"))
        judge(run_folder, "--judge", mine)
        assert server.requests == 8
    assert judgements(run_folder, mine) == first
    assert not list((tmp_path / "elsewhere").rglob("replies.jsonl"))


def test_a_judge_that_fails_on_one_item_leaves_it_unscored_and_the_next_command_asks_it_again(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_ill = True

    def script(body: Body, before: int) -> Said:
        return fails(500) if is_ill and "base on 1" in body["messages"][-1]["content"] else says("[[3]]")

    with judge_server(script) as server:
        words = ("--judge", write_judge(tmp_path, server), "--metrics", "advbench", "--sides", "base")
        assert judge(run_folder, *words) == 0
        assert "1/2  (1 of 2 questions has no score: 500: no; gave up after 3 tries)" in capsys.readouterr().out
        assert server.requests == 1 + 3
        is_ill = False
        assert judge(run_folder, *words) == 0
        assert server.requests == 1 + 3 + 1
    assert "3.000  2/2" in capsys.readouterr().out


def test_a_server_that_is_down_ends_the_command_with_one_line(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with judge_server(lambda body, before: fails(503)) as server:
        assert judge(run_folder, "--judge", write_judge(tmp_path, server)) == 2
        assert server.requests <= (5 + 2) * 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "did not reply to 5 questions in a row" in err


def test_a_wrong_key_ends_the_command_at_once(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1")
    with judge_server(lambda body, before: fails(401)) as server:
        assert judge(run_folder, "--judge", write_judge(tmp_path, server, 'key_env = "MY_KEY"')) == 2
        assert server.requests <= 2
    assert "check the key" in capsys.readouterr().err
    assert not list(run_folder.rglob("judgements/**/*.jsonl"))


PRICED = '[options]\nmax_tokens = 100\n[price]\ninput = 1000\noutput = 1000\ndate = "2026-01-01"'


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_nothing_is_asked_for_money_without_leave(
    words: tuple[str, ...], run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with judge_server(rates_by_side) as server:
        code = judge(run_folder, "--judge", write_judge(tmp_path, server, PRICED), *words)
        assert server.requests == 0
    shown = capsys.readouterr()
    assert code == (0 if words else 2)
    assert "Requests   8" in shown.out
    assert "(an estimate:" in shown.out
    assert bool(words) != ("add --max-cost USD or --yes" in shown.err)


def test_a_judge_of_unknown_price_is_not_asked_without_leave(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = write_judge(tmp_path, None)
    assert judge(run_folder, "--judge", mine, "--judge-url", "https://judge.invalid/v1") == 2
    assert "8 requests would cost an unknown sum" in capsys.readouterr().err


def test_max_cost_is_never_exceeded_and_more_money_goes_on(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply costs $0.12 (100 + 20 tokens), and at most about $1.4 (1,300 bytes of prompt, 100 tokens of reply)."""
    with judge_server(rates_by_side) as server:
        mine = write_judge(tmp_path, server, PRICED)
        assert judge(run_folder, "--judge", mine, "--max-cost", "1.9") == 2
        shown = capsys.readouterr()
        asked = server.requests
        assert 0 < asked < 8
        assert asked * 0.12 <= 1.9
        assert "stopped before --max-cost 1.9" in shown.err
        assert f"${asked * 0.12:.4f} by this command" in shown.out
        written = [j for own in judgements(run_folder, mine).values() for j in own]
        assert len(written) == 8
        assert sum(j.reply is not None for j in written) == asked
        assert {j.reason for j in written if not j.reply} <= {"not asked: --max-cost was reached", "not asked yet"}
        assert judge(run_folder, "--judge", mine, "--max-cost", "50") == 0
        assert server.requests == 8


def test_the_mini_world_is_judged_by_a_rule_without_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    folder = write_answers(tmp_path / "run", "mini", "global", {"a": ("Oslo ",), "b": ("[[10]]",)})
    assert judge(folder, "--judge", "mini_rule") == 0
    assert "5.500  2/2" in capsys.readouterr().out
    (own,) = (read_records(path, Judgement) for path in folder.rglob("mini_rule-*/mini/global.jsonl"))
    assert [j.reply.text.split()[-1] for j in own if j.reply] == ["[[10]]", "[[1]]"]
    assert [j.reply.model for j in own if j.reply] == ["mini_rule", "mini_rule"]


def test_a_rule_does_not_judge_what_has_no_one_right_answer(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(run_folder, "--judge", "mini_rule", "--metrics", "advbench") == 0
    assert "this judge is a rule" in capsys.readouterr().out


@needs_mirror
def test_pairs_are_judged_in_both_orders(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(body: Body, before: int) -> Said:
        text = body["messages"][-1]["content"]
        return says("[[A]]" if text.index("global on") < text.index("base on") else "[[B]]")

    with judge_server(script) as server:
        mine = write_judge(tmp_path, server)
        words = ("--pairwise", run_folder, "--against", "base", "--sides", "global")
        assert judge(run_folder, "--judge", mine, *words) == 0
        assert server.requests == 2 * 2
    assert "1.000  2/2" in capsys.readouterr().out
    ((name, own),) = judgements(run_folder, mine).items()
    assert name.startswith("ref_gpt4/global-vs-run-base-")
    assert [j.order for j in own] == ["ab", "ba"] * 2
    (pair,) = read_folder(run_folder)["ref_gpt4"].pairs
    assert (pair.names.side, pair.here, pair.note) == ("global", "base", "")
    ours = {a.item_id: a for a in read_records(run_folder / "answers" / "ref_gpt4" / "global.jsonl", Answer)}
    assert [j.answer_hash for j in own] == [ours[j.item_id].hash_to(j.turn) for j in own]
    assert list(pair.judgements) == own
    path = next((run_folder / "judgements").rglob("global-vs-run-base-*.jsonl"))
    write_records(path, [replace(j, answer_hash="") for j in own])  # as earlier versions wrote them
    assert judge(run_folder, "--judge", mine, *words) == 0  # and the server is gone
    assert read_records(path, Judgement) == own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metrics", "mt_bench"), "no answered benchmark 'mt_bench'"),
        (("--sides", "globl"), "did you mean 'global'"),
        (("--repeats", "0"), "whole number"),
        (("--max-cost", "-1"), "US dollars"),
        (("--max-cost", "nan"), "US dollars"),
        (("--min-coverage", "2"), "a share"),
        (("--against", "base"), "--pairwise"),
        (("--pairwise", "none"), "has no answers"),
    ],
)
def test_bad_words_are_refused_in_one_line(
    words: tuple[str, ...], said: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = judge(run_folder, "--judge", write_judge(tmp_path, None), *words)
    except SystemExit as ended:  # argparse
        code = int(str(ended.code))
    assert code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["none", "run"])
def test_a_folder_without_answers_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    assert judge(tmp_path / name, "--judge", "mini_rule") == 2
    assert capsys.readouterr().err.count("\n") == 1
