"""Asking a judge about pairs: what is asked, kept, asked again, and what happens without a reply; the command."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import code_of
from scripted_judges import Scripted, at_random, first_always, longer, needs_mirror, small_world

from fedllm_bench import cli, files
from fedllm_bench.commands import judge_check as command
from fedllm_bench.evaluation.judge_check import cost, coverage
from fedllm_bench.evaluation.pair_decisions import decisions
from fedllm_bench.evaluation.pair_judging import Asking, NoReplyError, ask_about, pair_files, sample, stored_judgements
from fedllm_bench.evaluation.pair_prompts import (
    ORDERS,
    WITH_REFERENCE,
    Material,
    models,
    mt_bench_material,
    pair_messages,
)
from fedllm_bench.evaluation.records import Judgement
from fedllm_bench.evaluation.votes import Match

MATERIAL, EXPERTS = small_world(questions=4)
MATCHES = sorted({vote.match for vote in EXPERTS})


def ask(judge: Scripted, folder: Path, *, material: Material = MATERIAL, repeats: int = 1, workers: int = 1) -> None:
    ask_about(judge, pair_files("j", MATCHES, material, Asking(folder=folder, repeats=repeats)), material, workers)


def kept_in(folder: Path, material: Material = MATERIAL) -> dict[Match, list[Judgement]]:
    return stored_judgements(folder, "j", MATCHES, material)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.jsonl")}


@pytest.mark.parametrize("workers", [1, 4])
def test_each_match_is_asked_in_both_orders_once_and_never_again(tmp_path, workers):
    judge = Scripted("j", longer)
    ask(judge, tmp_path, repeats=2, workers=workers)
    assert judge.asked == len(MATCHES) * 2 * 2 == 64
    kept = kept_in(tmp_path)
    assert set(kept) == set(MATCHES)
    for own in kept.values():
        assert Counter((each.order, each.repeat) for each in own) == Counter((o, r) for o in ORDERS for r in (0, 1))
    before = contents(tmp_path)
    assert set(before) == {"m1-vs-m2.jsonl", "m2-vs-m3.jsonl"}
    ask(judge, tmp_path, repeats=2, workers=workers)
    assert (judge.asked, contents(tmp_path)) == (64, before)


def test_threads_leave_the_same_files(tmp_path):
    for workers in (1, 5):
        ask(Scripted("j", at_random), tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "5")


def test_another_question_is_another_request(tmp_path):
    judge = Scripted("j", longer)
    ask(judge, tmp_path)
    changed = {"pair-v2": ("another", MATERIAL.templates["pair-v2"][1])}
    other = replace(MATERIAL, templates={**MATERIAL.templates, **changed})
    ask(judge, tmp_path, material=other)
    first_turns = sum(match.turn == 1 for match in MATCHES)
    assert judge.asked == 2 * len(MATCHES) + 2 * first_turns
    assert [len(own) for own in kept_in(tmp_path, other).values()] == [2] * len(MATCHES)
    assert {match.turn for match in kept_in(tmp_path)} == {2}  # replies to another prompt do not count


def test_equal_answers_of_two_models_are_still_two_requests(tmp_path):
    same = replace(MATERIAL, answers=dict.fromkeys(MATERIAL.answers, MATERIAL.answers["m1"]))
    judge = Scripted("j", longer)
    ask(judge, tmp_path, material=same)
    made = decisions(kept_in(tmp_path, same), MATCHES)
    assert judge.asked == 2 * len(MATCHES)
    assert {decision.winner for decision in made} == {"tie"}


class Failing(Scripted):
    """Raises `error` for every call number in `at`."""

    def __init__(self, error: BaseException, at: set[int]) -> None:
        super().__init__("j", longer)
        self.error, self.at = error, at

    def ask(self, messages, *, repeat):
        if self.asked + 1 in self.at:
            self.asked += 1
            raise self.error
        return super().ask(messages, repeat=repeat)


def test_no_reply_is_kept_with_its_reason_and_only_that_is_asked_again(tmp_path):
    judge = Failing(NoReplyError("timed out 4 times"), {3, 20})
    ask(judge, tmp_path)
    kept = kept_in(tmp_path)
    made = decisions(kept, MATCHES)
    assert coverage(made) == {"decisions": 16, "with_verdict": 14}
    assert {decision.reason for decision in made} == {"", "timed out 4 times"}
    assert (cost(kept)["requests"], cost(kept)["replies"]) == (32, 30)
    judge.at = set()
    ask(judge, tmp_path)
    assert judge.asked == 32 + 2
    assert coverage(decisions(kept_in(tmp_path), MATCHES))["with_verdict"] == 16


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no such model")])
def test_what_was_answered_before_the_end_is_kept(tmp_path, error):
    judge = Failing(error, {21})
    with pytest.raises(type(error)):
        ask(judge, tmp_path)
    done = judge.asked - 1
    judge.at = set()
    ask(judge, tmp_path)
    assert done >= 20
    assert judge.asked == 32 + 1  # no request with a reply is asked again
    assert len(kept_in(tmp_path)) == 16


def test_prices_are_summed_and_unknown_where_one_is(tmp_path):
    ask(Scripted("j", longer), tmp_path)
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
            has_reference = category in WITH_REFERENCE
            assert ("reference answer" in system["content"]) == has_reference
            if has_reference:
                assert material.references[question][turn - 1] in text
            seen.add((has_reference, turn, system["content"]))
    assert len(seen) == 4


# --- the command


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


@needs_mirror
def test_a_judge_is_measured_and_measured_again_offline(tmp_path, capsys, monkeypatch):
    judge = Scripted("scripted", first_always)
    monkeypatch.setattr(command, "open_judge", lambda name: judge)
    words = ["judge-check", "--judge", "scripted", "--limit", "100", "--out", str(tmp_path / "checks")]
    assert cli.main([*words, "--workers", "3"]) == 0
    text = capsys.readouterr().out
    assert judge.asked == 200
    assert "experts with scripted" in text
    assert "100 of 100 decisions have a verdict in both orders" in text
    assert "200 replies to 200 requests, 0.20 USD" in text
    assert "first answer in both orders" in text
    assert cli.main([*words, "--offline"]) == 0
    assert capsys.readouterr().out == text
    assert judge.asked == 200


def refused(capsys, words: list[str], *expected: str) -> None:
    assert code_of(["judge-check", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in expected)


def test_bad_input_is_one_line(tmp_path, capsys):
    refused(capsys, ["--offline"], "--judge")
    for option in ("--limit", "--repeats", "--workers"):
        refused(capsys, [option, "0"], option, "whole number, 1 or more")
    refused(capsys, ["--jugde", "x"], "did you mean --judge")


@needs_mirror
def test_a_judge_that_is_not_there_is_one_line(tmp_path, capsys):
    refused(capsys, ["--judge", "x", "--offline", "--out", str(tmp_path)], "no kept replies of the judge 'x'")
    refused(capsys, ["--judge", "../x", "--offline", "--out", str(tmp_path)], "cannot name a file")


def test_help_has_examples(capsys):
    assert code_of(["judge-check", "--help"]) == 0
    assert "examples:" in capsys.readouterr().out
