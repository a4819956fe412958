"""What a judge is asked about pairs, what is kept and what counts; the command, against a judge on this machine."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import code_of
from judge_server import Body, Said, fails, judge_server, says
from scripted_judges import Scripted, ask, longer, needs_mirror, small_world

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.judges import asking
from fedllm_bench.evaluation.judges.questions import REFERENCE_CATEGORIES
from fedllm_bench.evaluation.judging.judge_check import cost, coverage
from fedllm_bench.evaluation.judging.pair_decisions import decisions
from fedllm_bench.evaluation.judging.pair_judging import sample, stored_judgements
from fedllm_bench.evaluation.judging.pair_prompts import (
    ORDERS,
    BattleMaterial,
    models,
    mt_bench_material,
    pair_messages,
)
from fedllm_bench.evaluation.judging.votes import Match
from fedllm_bench.evaluation.records import Judgement

MATERIAL, EXPERTS = small_world(questions=4)
MATCHES = sorted({vote.match for vote in EXPERTS})
JUDGE = Scripted("j", longer).preset


def ask_here(judge: Scripted, folder: Path, material: BattleMaterial = MATERIAL, repeats: int = 1) -> None:
    ask(judge, folder, MATCHES, material, repeats)


def kept_in(folder: Path, material: BattleMaterial = MATERIAL) -> dict[Match, list[Judgement]]:
    return stored_judgements(folder, JUDGE, MATCHES, material)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.jsonl")}


def test_each_match_is_asked_in_both_orders_once_and_never_again(tmp_path):
    judge = Scripted("j", longer)
    ask_here(judge, tmp_path, repeats=2)
    assert judge.asked == len(MATCHES) * 2 * 2 == 64
    kept = kept_in(tmp_path)
    assert set(kept) == set(MATCHES)
    for own in kept.values():
        assert Counter((each.order, each.repeat) for each in own) == Counter((o, r) for o in ORDERS for r in (0, 1))
    before = contents(tmp_path)
    assert set(before) == {"m1-vs-m2.jsonl", "m2-vs-m3.jsonl"}
    ask_here(judge, tmp_path, repeats=2)
    assert (judge.asked, contents(tmp_path)) == (64, before)
    elsewhere = Scripted("j", longer)  # a machine without this judge's replies, but with the folder
    ask_here(elsewhere, tmp_path, repeats=2)
    assert (elsewhere.asked, contents(tmp_path)) == (0, before)


def test_replies_about_another_prompt_do_not_count(tmp_path):
    ask_here(Scripted("j", longer), tmp_path)
    changed = {"pair-v2": replace(MATERIAL.templates["pair-v2"], system="another")}
    other = replace(MATERIAL, templates={**MATERIAL.templates, **changed})
    assert {match.turn for match in kept_in(tmp_path, other)} == {2}
    assert stored_judgements(tmp_path, Scripted("k", longer).preset, MATCHES, MATERIAL) == {}


def test_equal_answers_of_two_models_are_a_tie(tmp_path):
    same = replace(MATERIAL, answers=dict.fromkeys(MATERIAL.answers, MATERIAL.answers["m1"]))
    ask_here(Scripted("j", longer), tmp_path, same)
    made = decisions(kept_in(tmp_path, same), MATCHES)
    assert {decision.winner for decision in made} == {"tie"}
    assert len(made) == len(MATCHES)


def test_no_reply_is_kept_with_its_reason_and_only_that_is_asked_again(tmp_path):
    judge = Scripted("j", longer)
    judge.refuses = lambda number: number in (3, 20)
    ask_here(judge, tmp_path)
    kept = kept_in(tmp_path)
    made = decisions(kept, MATCHES)
    assert coverage(made) == {"decisions": 16, "with_verdict": 14}
    assert {decision.reason for decision in made} == {"", "timed out"}
    assert (cost(kept)["requests"], cost(kept)["replies"]) == (32, 30)
    ask_here(judge, tmp_path)
    assert judge.asked == 32 + 2
    assert coverage(decisions(kept_in(tmp_path), MATCHES))["with_verdict"] == 16


def test_prices_are_summed_and_unknown_where_one_is(tmp_path):
    ask_here(Scripted("j", longer), tmp_path)
    kept = kept_in(tmp_path)
    found = cost(kept)
    assert (found["price"], found["prompt_tokens"], found["seconds"]) == (pytest.approx(0.032), 320, 16.0)
    own = kept[MATCHES[0]]
    free = replace(own[0], reply=replace(own[0].reply, price=None))
    assert cost({**kept, MATCHES[0]: [free, *own[1:]]})["price"] is None
    assert cost({})["price"] is None


def test_a_sample_is_spread_over_questions_and_grows():
    matches = [Match(str(q), turn, "a", b) for q in range(10) for turn in (1, 2) for b in "bcd"]
    few, more = sample(matches, 10), sample(reversed(matches), 25)
    assert {match.question for match in few} == {str(q) for q in range(10)}
    assert set(few) < set(more)
    assert max(Counter(match.question for match in more).values()) == 3
    assert sample(matches, None) == sample(matches, 1000) == sorted(matches)


@needs_mirror
def test_prompts_are_those_of_mt_bench():
    material = mt_bench_material()
    assert len(models()) == 6
    assert len(material.questions) == 80
    seen = set()
    for question, category in material.categories.items():
        for turn in (1, 2):
            match = Match(question, turn, "claude-v1", "gpt-4")
            system, user = pair_messages(material, match, "ba")
            text = user["content"]
            shown = material.answers["gpt-4"][question][turn - 1], material.answers["claude-v1"][question][turn - 1]
            assert 0 < text.rindex(f"{shown[0]}\n") < text.rindex(f"{shown[1]}\n") or shown[0] in shown[1]
            assert material.questions[question][turn - 1] in text
            assert '"[[C]]" for a tie' in system["content"]
            has_reference = category in REFERENCE_CATEGORIES
            assert ("reference answer" in system["content"]) == has_reference
            if has_reference:
                assert material.references[question][turn - 1] in text
            seen.add((has_reference, turn, system["content"]))
    assert len(seen) == 4


# --- the command


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))


def judge_file(folder: Path, address: str, price: str = "") -> Path:
    path = folder / "scripted.toml"
    limits = "[limits]\ntries = 3\nconcurrency = 4\n"
    path.write_text(f'model = "m"\nbase_url = "{address}"\n[options]\nmax_tokens = 50\n{price}\n{limits}')
    return path


def first_with_faults(body: Body, before: int) -> Said:
    """Always the first; one request in ten fails once."""
    if not before and zlib.crc32(body["messages"][-1]["content"].encode()) % 10 == 0:
        return fails(500)
    return says("[[A]]")


@needs_mirror
def test_a_judge_is_measured_and_measured_again_offline(tmp_path, capsys, quick):
    with judge_server(first_with_faults) as server:
        words = ["judge-check", "--judge", str(judge_file(tmp_path, server.address)), "--out", str(tmp_path / "checks")]
        assert cli.main([*words, "--limit", "40", "--dry-run"]) == 0
        assert server.requests == 0
        assert cli.main([*words, "--limit", "40"]) == 0
        asked = server.requests
        assert 80 <= asked <= 80 + 30
        text = capsys.readouterr().out
        assert cli.main([*words, "--limit", "40", "--dry-run"]) == 0
        assert "Requests   none: every question has its reply" in capsys.readouterr().out
        assert server.requests == asked
    assert "experts with scripted" in text
    assert "40 of 40 decisions have a verdict in both orders" in text
    assert "80 replies to 80 requests, 0.0000 USD" in text
    assert cli.main([*words, "--limit", "40", "--offline", "--json", str(tmp_path / "check.json")]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == text[text.index("agreement ") :].splitlines()
    payload = files.read_json(tmp_path / "check.json")
    assert payload["judge"] == "scripted"
    assert payload["biases"]["first"]["mean"] == payload["biases"]["first_share"]["mean"] == 1.0


def test_the_command_asks_everything_as_often_as_it_is_told(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setattr("fedllm_bench.evaluation.pair_prompts.mt_bench_material", lambda: MATERIAL)
    monkeypatch.setattr("fedllm_bench.evaluation.votes.expert_votes", lambda: EXPERTS)
    for repeats in (1, 3):
        words = ["--judge", str(judge_file(tmp_path, "http://127.0.0.1:9/v1")), "--repeats", str(repeats), "--dry-run"]
        assert cli.main(["judge-check", *words, "--out", str(tmp_path / "checks")]) == 0
        expected = len(MATCHES) * len(ORDERS) * repeats
        assert f"Requests   {expected}" in capsys.readouterr().out.splitlines()


@needs_mirror
def test_a_limit_of_the_cost_is_kept_and_what_came_counts(tmp_path, capsys, quick):
    price = "[price]\ninput = 1.0\noutput = 1.0\n"
    usage = {"prompt_tokens": 3000, "completion_tokens": 50}  # 0.003 dollars each
    with judge_server(lambda body, before: says("[[A]]", usage=usage)) as server:
        where = str(judge_file(tmp_path, server.address, price)), "--out", str(tmp_path / "checks")
        words = ["--judge", *where, "--limit"]
        refused(capsys, [*words, "10"], "20 requests would cost about", "--max-cost")
        assert server.requests == 0
        refused(capsys, [*words, "10", "--max-cost", "0.03"], "stopped before --max-cost 0.03 was exceeded")
        assert 0 < server.requests < 20
    assert cli.main(["judge-check", *words, "10", "--offline"]) == 0
    assert "of 10 decisions have a verdict in both orders" in capsys.readouterr().out


@needs_mirror
def test_without_a_judge_the_published_figures_are_shown(tmp_path, capsys):
    assert cli.main(["judge-check", "--json", str(tmp_path / "x" / "check.json")]) == 0
    text = capsys.readouterr().out
    for share, pairs, published in (("66.0%", 1343, "66% of 1343"), ("81.9%", 474, "82% of 474")):
        assert any(share in line and f" {pairs} " in line and published in line for line in text.splitlines())
    payload = files.read_json(tmp_path / "x" / "check.json")
    assert len(payload["agreement"]) == 8
    assert all(abs(row["share"]["mean"] - row["published"][0]) <= 0.005 for row in payload["agreement"])
    assert "judge" not in payload


def refused(capsys, words: list[str], *expected: str) -> None:
    assert code_of(["judge-check", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in expected)


def test_bad_input_is_one_line(tmp_path, capsys):
    refused(capsys, ["--offline"], "--judge")
    for option in ("--limit", "--repeats", "--concurrency"):
        refused(capsys, [option, "0"], option, "is not a whole number")
    refused(capsys, ["--jugde", "x"], "did you mean --judge")


@needs_mirror
def test_a_judge_that_is_not_there_is_one_line(tmp_path, capsys):
    refused(capsys, ["--judge", "gpt-4", "--offline", "--out", str(tmp_path)], "no kept replies of the judge gpt-4-")
    refused(capsys, ["--judge", "x", "--offline", "--out", str(tmp_path)], "no judge 'x'")
    refused(capsys, ["--judge", "mini_rule", "--out", str(tmp_path)], "a rule for prompts with one right answer")


def test_help_has_examples(capsys):
    assert code_of(["judge-check", "--help"]) == 0
    assert "examples:" in capsys.readouterr().out
