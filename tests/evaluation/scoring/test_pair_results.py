"""Judged pairs in evaluation.json and the report: win rates by hand, coverage, stale replies, hostile text."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from evaluation_records import HOSTILE, evaluate, plain_prompts, write_answers, write_judgements
from judged_pairs import ELSEWHERE, TEMPLATES, here, lost, pair_judgements, won, write_asked_pairs, write_pairs

from fedllm_bench.cli import main
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges import questions
from fedllm_bench.evaluation.judging.pair_files import PairNames, pair_names
from fedllm_bench.evaluation.records import Answer, Prompt, answers_file, read_records
from fedllm_bench.evaluation.scoring.answered import read_folder
from fedllm_bench.evaluation.scoring.evaluation_json import read_evaluation
from fedllm_bench.report.page.write import write_evaluation_report

NOT_HERE = "the other answers or judge.json are not in this folder"


@pytest.fixture(autouse=True)
def _templates(monkeypatch):
    monkeypatch.setattr(questions, "mt_bench_templates", lambda: TEMPLATES)


def by_item(prompt, turn, order):
    """Of four questions: a win, a loss, a tie by word, and the first one shown."""
    kinds = (won(order), lost(order), "[[C]]", "[[A]]")
    return f"Hm. {kinds[int(prompt.item_id) % 4]}"


def only(folder, **options):
    (pair,) = evaluate(folder, **options).pairs
    return pair


def test_a_win_rate_is_over_questions_and_counts_are_of_pairs_by_hand(tmp_path):
    prompts = [*plain_prompts(9), Prompt(item_id="12", turns=("?", "And?"))]  # 0 to 8, and two turns of a win
    write_pairs(tmp_path, prompts, pair_judgements(prompts, by_item))
    pair = only(tmp_path)
    assert (pair.judge, pair.benchmark, pair.side) == ("stub", "vicuna_bench", "global")
    assert (pair.other_run, pair.other_side, pair.other_answers) == ("s1-0123abcd", "global", "00000000")
    # questions: wins 0 4 8 12, losses 1 5, ties 2 6, the order alone 3 7
    assert pair.win_rate.mean == pytest.approx((4 + 4 * 0.5) / 10, abs=1e-15)
    assert (pair.wins, pair.ties, pair.losses) == (5, 4, 2)  # the last question won twice
    assert (pair.consistent, pair.consistency) == (9, 9 / 11)
    assert (pair.win_rate.coverage, pair.win_rate.interval) == ("10/10", "t_skew")
    # t of 10 values, 4 of 1, 2 of 0, 4 of 0.5: s^2 = (4 * 0.16 + 2 * 0.36 + 4 * 0.01) / 9, t = 2.2621571628
    half = 2.2621571628 * ((4 * 0.16 + 2 * 0.36 + 4 * 0.01) / 9 / 10) ** 0.5
    assert 0 < pair.win_rate.ci_low < 0.6 - half  # widened on the side of the losses
    assert pair.win_rate.ci_high == pytest.approx(0.6 + half, abs=1e-9)


def test_repeats_are_a_mean_within_a_question(tmp_path):
    prompts = plain_prompts(2)
    first, second = (pair_judgements(prompts, by_item, repeat=n) for n in range(2))
    second = [replace(one, reply=replace(one.reply, text=won(one.order))) for one in second]
    write_pairs(tmp_path, prompts, [*first, *second])
    pair = only(tmp_path)
    assert (pair.wins, pair.ties, pair.losses) == (3, 0, 1)
    assert pair.win_rate.mean == 0.75  # (1 + 1) / 2 and (0 + 1) / 2


def test_with_one_reply_lost_the_coverage_is_79_of_80_and_the_win_rate_is_refused(tmp_path):
    prompts = plain_prompts(80)
    told = pair_judgements(prompts, by_item)
    told[-1] = replace(told[-1], reply=None, reason="the server was down")
    write_pairs(tmp_path, prompts, told)
    rate = only(tmp_path).win_rate
    assert (rate.mean, rate.coverage, rate.unscored) == (None, "79/80", {"the server was down": 1})
    assert rate.refused == "coverage 79/80 is below the limit of 100%"
    assert rate.bounds == pytest.approx(((20 + 0.5 * 39) / 80, (20 + 0.5 * 39 + 1) / 80))
    pair = only(tmp_path, min_coverage=0.95)
    assert pair.win_rate.mean == pytest.approx((20 + 0.5 * 39) / 79)
    assert pair.win_rate.coverage == "79/80"
    assert (pair.wins, pair.ties, pair.losses) == (20, 39, 20)
    write_pairs(tmp_path, prompts, told[:-1])  # not even its line is there
    assert only(tmp_path).win_rate.unscored == {"a judgement of one order is missing": 1}


@pytest.mark.parametrize(("verdict", "mean", "low", "high"), [
    (won, 1.0, 0.025 ** (1 / 40), 1.0),
    (lost, 0.0, 0.0, 1 - 0.025 ** (1 / 40)),
    (lambda order: "[[A]]", 0.5, 0.025 ** (1 / 40) / 2, 1 - 0.025 ** (1 / 40) / 2),
])  # fmt: skip
def test_pairs_that_are_all_alike_have_an_interval_of_some_width(tmp_path, verdict, mean, low, high):
    prompts = plain_prompts(40)
    write_pairs(tmp_path, prompts, pair_judgements(prompts, lambda p, turn, order: verdict(order)))
    pair = only(tmp_path)
    assert (pair.win_rate.mean, pair.win_rate.interval) == (mean, "exact")
    assert (pair.win_rate.ci_low, pair.win_rate.ci_high) == pytest.approx((low, high), abs=1e-12)
    assert pair.consistency == (0 if mean == 0.5 else 1)


def test_replies_to_other_answers_are_stale_where_both_sides_are_here(tmp_path):
    prompts = plain_prompts(4)
    write_asked_pairs(tmp_path, prompts)
    pair = only(tmp_path)
    assert (pair.other_side, pair.is_checked, pair.win_rate.mean, pair.wins) == ("base", True, 1.0, 4)
    assert read_folder(tmp_path)["vicuna_bench"].notes == ()
    write_answers(tmp_path, "vicuna_bench", "global", prompts,
                  lambda p, turn: "new" if p.item_id == "2" else f"global {p.item_id}/{turn}")  # fmt: skip
    assert only(tmp_path).win_rate.unscored == {"it was judged for another answer; judge again": 1}


def test_replies_to_another_answer_of_the_side_are_stale_also_where_the_other_run_is_elsewhere(tmp_path):
    prompts = plain_prompts(4)
    told = pair_judgements(prompts, by_item)
    write_pairs(tmp_path, prompts, told)
    assert not only(tmp_path).is_checked
    what = "vicuna_bench, global against s1-0123abcd global (00000000)"
    note = f"{what}: whether the judge's replies are to these answers could not be checked ({NOT_HERE})"
    assert read_folder(tmp_path)["vicuna_bench"].notes == (note,)
    answers = {a.item_id: a for a in read_records(answers_file(tmp_path, "vicuna_bench", "global"), Answer)}
    told = [replace(one, answer_hash=answers[one.item_id].hash_to(one.turn)) for one in told]
    write_judgements(tmp_path, "vicuna_bench", ELSEWHERE, told)
    pair = only(tmp_path)
    assert (pair.is_checked, pair.win_rate.coverage) == (True, "4/4")
    assert read_folder(tmp_path)["vicuna_bench"].notes == ()
    write_answers(tmp_path, "vicuna_bench", "global", prompts[1:], lambda p, turn: f"global {p.item_id}/{turn}")
    pair = only(tmp_path)
    assert (pair.is_checked, pair.win_rate.coverage) == (True, "3/4")


def test_pairs_without_single_grading_leave_the_metric_without_a_judge(tmp_path):
    prompts = plain_prompts(3)
    write_pairs(tmp_path, prompts, pair_judgements(prompts, by_item))
    evaluation = evaluate(tmp_path)
    assert list(evaluation.metrics) == ["vicuna_bench"]
    assert evaluation.judges["stub"].num_replies == 6
    assert evaluation.judges["stub"].price == pytest.approx(0.006)


@pytest.mark.parametrize(("name", "found"), [
    ("global-vs-s0-01ab-global-0123abcd", ("global", "s0-01ab", "global", "0123abcd")),
    ("global-vs-a-vs-b-base-0123abcd", ("global", "a-vs-b", "base", "0123abcd")),
    ("client-a-vs-b-vs-run-client-a-b-0123abcd", ("client-a-vs-b", "run", "client-a-b", "0123abcd")),
    ("client-a-vs-run-client-client-0123abcd", ("client-a", "run-client", "client", "0123abcd")),
    (f"client-{'x' * 23}-vs-run-base-0123abcd", (f"client-{'x' * 40}", "run", "base", "0123abcd")),
    ("global-vs-run-mine-0123abcd", ("global", "run-mine", "", "0123abcd")),
    ("global-vs-run-base-0123", None),
    ("other-vs-run-base-0123abcd", None),
    (f"client-{'y' * 23}-vs-run-base-0123abcd", None),  # two sides begin like that
])  # fmt: skip
def test_names_of_pairs(name, found):
    sides = ["base", "global", "client-a", "client-a-vs-b", f"client-{'x' * 40}"]
    sides += [f"client-{'y' * 30}1", f"client-{'y' * 30}2"]
    fields = ("side", "other_run", "other_side", "digest")
    if found and found[1] == "run-client":  # a name that can be read in two ways is read in one of them
        found = ("client-a", "run", "client-client", "0123abcd")
    assert pair_names(name, sides) == (found and PairNames(**dict(zip(fields, found, strict=True))))


def test_pairs_of_nobody_are_left_out_and_said_and_unknown_items_refused(tmp_path):
    prompts = plain_prompts(2)
    told = pair_judgements(prompts, by_item)
    write_pairs(tmp_path, prompts, told, "client-gone-vs-run-base-0123abcd")
    evaluation = write_evaluation_report(tmp_path)
    assert evaluation.evaluation.pairs == ()
    said = "stub's pairs in client-gone-vs-run-base-0123abcd.jsonl are left out: whose they are is not clear"
    assert evaluation.notes == (f"vicuna_bench: {said}",)
    write_judgements(tmp_path, "vicuna_bench", here(tmp_path), [replace(told[0], item_id="none")])
    with pytest.raises(UserError, match="item 'none' is not among the prompts"):
        read_folder(tmp_path)


class Tags(HTMLParser):
    """The names of all elements, the words outside scripts, and the text of the first script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.data = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, text):
        if self.tags[-1:] == ["script"] and not self.data:
            self.data = text
        self.words.append(text)


def test_the_report_shows_pairs_in_the_terminal_the_table_and_the_browser(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    prompts = plain_prompts(4)
    write_pairs(tmp_path, prompts, pair_judgements(prompts, by_item))
    assert main(["report", str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("vicuna_bench: global")]
    assert line.startswith("vicuna_bench: global against s1-0123abcd global (00000000)   stub  0.500 [")
    assert line.split()[-6:] == ["1", "2", "1", "75%", "of", "4"]
    (pair,) = read_evaluation(tmp_path / "evaluation.json").pairs
    assert pair == replace(only(tmp_path), win_rate=pair.win_rate)
    page = Tags((tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(page.words)
    for text in ("vicuna_bench: global against s1-0123abcd global (00000000)", "75% of 4", "orders agree"):
        assert text in words
    item = json.loads(page.data)["items"][1]
    title = "stub, against s1-0123abcd global (00000000)"
    assert item["scores"][f"win rate, {title}"] == {"global": [0.0, "", [0.0]]}
    told = item["replies"][title]["global"]
    assert [(one["order"], one["text"]) for one in told] == [("ab", "Hm. [[B]]"), ("ba", "Hm. [[A]]")]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_replies_stay_text_and_gain_nothing(tmp_path, text):
    prompts = plain_prompts(2)
    tags = []
    for words in ("harmless", text):
        write_pairs(tmp_path, prompts, pair_judgements(prompts, lambda p, turn, order, said=words: said))
        page = Tags(write_evaluation_report(tmp_path).page.read_text(encoding="utf-8"))
        tags.append(page.tags)
    assert set(tags[1]) == set(tags[0])
    assert only(tmp_path).win_rate.mean is None
    told = json.loads(page.data)["items"][0]["replies"]["stub, against s1-0123abcd global (00000000)"]["global"]
    shown = told[0]["text"]
    assert (shown[0] if isinstance(shown, list) else shown) == text[:20_000]
