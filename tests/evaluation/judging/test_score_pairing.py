"""Vicuna bench in its first form: two scores for each pair of answers, asked in both orders, summed and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge_server import Body, Said, judge_server, says
from judged import REF, answer, write_answers

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.judges.questions import Asker
from fedllm_bench.evaluation.judges.templates import own_templates, scores_template, templates_hash
from fedllm_bench.evaluation.judging.pair_reviews import totals_of
from fedllm_bench.evaluation.judging.score_pairing import (
    reply_scores,
    scored_pairs,
    tally,
    wins,
    wins_first,
    wins_second,
)
from fedllm_bench.evaluation.records import Judgement, Order, Prompt, Reply, answers_file, prompts_file, write_records
from fedllm_bench.evaluation.scoring.answered import read_folder
from fedllm_bench.evaluation.scoring.evaluation_json import read_evaluation

PROMPTS = [Prompt(item_id=str(n), turns=(f"Question {n}?",)) for n in range(12)]
JUDGE = """model = "m"
base_url = "{address}"
"""


def judgement(item: str, order: Order, text: str, repeat: int = 0, finish: str = "stop") -> Judgement:
    reply = Reply(text=text, finish=finish, completion_tokens=9)
    return Judgement(item_id=item, turn=1, request_hash="x", order=order, repeat=repeat, reply=reply)


def values(scores: Any) -> list[float | None]:
    return [score.value for score in scores]


# --- the request


def test_both_orders_are_asked_with_the_question_and_both_answers():
    a, b = (
        {prompt.item_id: answer(prompt, f"{name} says {{question}}")} for name, prompt in (("A", REF[0]), ("B", REF[0]))
    )
    ab, ba = Asker("ref_gpt4", own_templates()).scored(REF[:1], a, b, 1)
    assert (ab.slot.order, ba.slot.order) == ("ab", "ba")
    texts = [question.messages[-1]["content"] for question in (ab, ba)]
    assert all(REF[0].turns[0] in text for text in texts)
    assert texts[0].index("A says {question}") < texts[0].index("B says {question}")
    assert texts[1].index("B says {question}") < texts[1].index("A says {question}")
    assert "from 1 (worst) to 10 (best)" in texts[0]


def test_only_first_turns_are_asked_and_a_missing_answer_is_said():
    prompt = Prompt(item_id="x", turns=("One?", "Two?"))
    questions = list(Asker("vicuna_bench", own_templates()).scored([prompt], {"x": answer(prompt, "a", "b")}, {}, 1))
    assert [(question.slot.turn, question.reason) for question in questions] == [(1, "no answer")] * 2


def test_the_prompt_changes_no_judge_that_there_was():
    assert "pair_scores" not in own_templates()
    assert scores_template().name == "pair_scores"
    assert templates_hash().startswith("f589724d5226")  # it stands in the id of every judge so far


# --- the reply


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("8 9\nBecause.", "stop", (8.0, 9.0)),
        ("<think>1 1\n</think>\n8 9\nBecause.", "stop", (8.0, 9.0)),
        ("8 9\nBecause it", "length", (8.0, 9.0)),
        ("8 1", "length", None),  # perhaps of "8 10"
        ("8 9\nBecause", "content_filter", None),
        ("<think>8 9\nand", "length", None),
        ("Assistant 1: 8, assistant 2: 9", "stop", None),
        ("", "stop", None),
    ],
)
def test_scores_are_those_of_the_first_line_that_was_said_to_its_end(text: str, finish: str, expected: Any):
    found, reason = reply_scores(Reply(text=text, finish=finish))
    assert found == expected
    assert bool(reason) is (expected is None)


def test_orders_are_put_together_by_hand():
    told = [
        judgement("0", "ab", "8 6"), judgement("0", "ba", "7 9"),  # ahead in both
        judgement("1", "ab", "9 8"), judgement("1", "ba", "9 8"),  # whoever is first
        judgement("2", "ab", "5 5"), judgement("2", "ba", "5 5"),
        judgement("3", "ab", "1 3"), judgement("3", "ba", "4 2"),  # behind in both
        judgement("4", "ab", "8 6"), judgement("4", "ba", "hm"),
        judgement("5", "ab", "8 6"),
    ]  # fmt: skip
    pairs = scored_pairs(PROMPTS[:7], told)
    assert [(pair.own, pair.other) for pair in pairs[:4]] == [(8.5, 6.5), (8.5, 8.5), (5.0, 5.0), (1.5, 3.5)]
    assert [pair.reason for pair in pairs[4:]] == [
        "the first line is not two scores", "a judgement of one order is missing", "no judge",
    ]  # fmt: skip
    assert values(wins(pairs)) == [1.0, 0.5, 0.5, 0.0, None, None, None]
    assert values(wins_first(pairs))[:4] == [1.0, 1.0, 0.5, 0.0]
    assert values(wins_second(pairs))[:4] == [1.0, 0.0, 0.5, 0.0]
    assert tally(pairs) == {"wins": 1, "ties": 2, "losses": 1, "consistent": 3}


# --- from the command to the results


def folder_of(path: Path, name: str) -> Path:
    write_records(prompts_file(path, "vicuna_bench"), PROMPTS)
    write_records(answers_file(path, "vicuna_bench", "base"), [answer(p, f"{name} on {p.item_id}") for p in PROMPTS])
    return path


SCORES = {"here": [8, 9, 7, 6, 9, 10, 8, 7, 9, 8, 5, 6], "there": [7, 7, 8, 6, 5, 9, 6, 7, 4, 8, 5, 5]}


def scores_answers(body: Body, before: int) -> Said:
    """What it thinks of each answer; the one shown first gets one more point where there is room."""
    text = body["messages"][-1]["content"]
    shown = sorted((text.index(f"{name} on "), name) for name in SCORES)
    item = int(text.split("Question ")[1].split("?")[0])
    first, second = (SCORES[name][item] for _, name in shown)
    return says(f"{min(first + 1, 10)} {second}\nAs I see it.")


def judged(tmp_path: Path, *more: str) -> tuple[int, Path]:
    here, there = (folder_of(tmp_path / name, name) for name in SCORES)
    with judge_server(scores_answers) as server:
        (tmp_path / "j.toml").write_text(JUDGE.format(address=server.address))
        words = ["judge", str(here), "--judge", str(tmp_path / "j.toml"), "--pairwise", str(there), "--scored", *more]
        return cli.main(words), here


@pytest.fixture(autouse=True)
def _own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))


def test_sums_ratio_and_win_rates_are_those_of_the_scores_with_intervals(tmp_path: Path, capsys):
    code, here = judged(tmp_path)
    assert code == 0
    assert "12/12" in capsys.readouterr().out
    assert cli.main(["report", str(here)]) == 0
    assert "Scored pairs" in (here / "report.html").read_text(encoding="utf-8")
    (found,) = read_evaluation(here / "evaluation.json").score_pairs
    own = np.mean([[min(a + 1, 10), a] for a in SCORES["here"]], axis=1)
    other = np.mean([[min(b + 1, 10), b] for b in SCORES["there"]], axis=1)
    assert (found.total.total, found.other_total.total) == (pytest.approx(own.sum()), pytest.approx(other.sum()))
    assert found.ratio_percent.mean == pytest.approx(100 * own.sum() / other.sum())
    assert found.ratio_percent.ci_low < found.ratio_percent.mean < found.ratio_percent.ci_high  # type: ignore[operator]
    first = [np.sign(min(a + 1, 10) - b) for a, b in zip(*SCORES.values(), strict=True)]
    second = [np.sign(a - min(b + 1, 10)) for a, b in zip(*SCORES.values(), strict=True)]
    assert found.win_rate_first.mean == pytest.approx(np.mean([(s + 1) / 2 for s in first]))
    assert found.win_rate_second.mean == pytest.approx(np.mean([(s + 1) / 2 for s in second]))
    both = [(a + 1) / 2 if a == b else 0.5 for a, b in zip(first, second, strict=True)]
    assert found.win_rate.mean == pytest.approx(np.mean(both))
    assert found.win_rate_first.mean > found.win_rate_second.mean  # the judge likes the first place
    assert (found.wins, found.losses) == (both.count(1), both.count(0))
    table = " ".join(capsys.readouterr().out.split())
    assert "sums of scores from 1 to 10, each the mean over both orders" in table


def test_a_lost_reply_leaves_no_sum_and_says_why(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(SCORES, "here", [12, *SCORES["here"][1:]])  # beyond the scale
    code, here = judged(tmp_path)
    assert code == 0
    assert cli.main(["report", str(here)]) == 0
    (found,) = read_evaluation(here / "evaluation.json").score_pairs
    assert (found.total.total, found.mean.coverage) == (None, "11/12")
    assert found.mean.unscored == {"a score is not from 1 to 10": 1}


def test_changed_answers_make_scores_stale_and_the_forms_do_not_mix(tmp_path: Path):
    _, here = judged(tmp_path)
    (path,) = here.glob("judgements/*/vicuna_bench.scores/base-vs-there-base-*.jsonl")
    material = read_folder(here)["vicuna_bench"]
    assert (len(material.pairs), len(material.score_pairs)) == (0, 1)
    assert all(one.reply for one in material.score_pairs[0].judgements)
    changed = [answer(p, "new" if p.item_id == "0" else f"here on {p.item_id}") for p in PROMPTS]
    write_records(answers_file(here, "vicuna_bench", "base"), changed)
    (pairs,) = read_folder(here)["vicuna_bench"].score_pairs
    assert [one.item_id for one in pairs.judgements if one.reply is None] == ["0", "0"]
    assert path.is_file()


def test_scores_against_a_side_of_the_same_folder_are_checked_by_the_whole_request(tmp_path: Path):
    _, here = judged(tmp_path)
    there = tmp_path / "there"
    write_records(answers_file(here, "vicuna_bench", "global"), [answer(p, f"there on {p.item_id}") for p in PROMPTS])
    with judge_server(scores_answers) as server:
        (tmp_path / "j.toml").write_text(JUDGE.format(address=server.address))
        words = ["judge", str(here), "--judge", str(tmp_path / "j.toml"), "--pairwise", str(here), "--scored"]
        assert cli.main([*words, "--sides", "base", "--against", "global"]) == 0
        assert server.requests == 0  # the same requests as before
    found = [pairs for pairs in read_folder(here)["vicuna_bench"].score_pairs if pairs.here == "global"]
    assert all(one.reply for one in found[0].judgements)
    assert there.is_dir()


@pytest.mark.parametrize("more", [[], ["--scored"]])
def test_answers_are_not_compared_with_themselves(more: list[str], tmp_path: Path, capsys):
    folder = write_answers(tmp_path / "a", "ref_gpt4", "base")
    words = ["judge", str(folder), "--judge", "mini_rule", "--pairwise", str(folder), *more]
    assert cli.main(words) == 2
    assert "would be compared with themselves; give another" in capsys.readouterr().err


def test_scored_needs_another_run(tmp_path: Path, capsys):
    folder = write_answers(tmp_path / "a", "ref_gpt4", "base")
    assert cli.main(["judge", str(folder), "--judge", "mini_rule", "--scored"]) == 2
    assert "--scored is for pairs of answers; give --pairwise" in capsys.readouterr().err


# --- reviews of others


def test_reviews_of_others_have_the_same_ratio_and_win_rates(tmp_path: Path):
    _, here = judged(tmp_path)
    rows = []
    for item in range(12):
        a, b = SCORES["here"][item], SCORES["there"][item]
        rows.append({"question_id": item, "model_1": "h", "model_2": "t", "text": f"{min(a + 1, 10)} {b}\nx"})
        rows.append({"question_id": item, "model_1": "t", "model_2": "h", "text": f"{min(b + 1, 10)} {a}\nx"})
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (pair,) = totals_of(path)["reviews"]
    assert cli.main(["report", str(here)]) == 0
    (found,) = files.read_json(here / "evaluation.json")["score_pairs"]
    assert pair["totals"]["h"]["total"] == pytest.approx(found["total"]["total"])
    assert pair["ratio_percent"]["mean"] == pytest.approx(found["ratio_percent"]["mean"])
    names = {"both orders": "win_rate", "shown first": "win_rate_first", "shown second": "win_rate_second"}
    for name, key in names.items():
        assert pair["win_rates"][name]["mean"] == pytest.approx(found[key]["mean"])


def test_reviews_in_one_order_have_no_rate_of_the_other(tmp_path: Path):
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(f'{{"question_id": {n}, "text": "8 7\\nx"}}\n' for n in range(5)))
    (pair,) = totals_of(path)["reviews"]
    assert set(pair["win_rates"]) == {"shown first"}
