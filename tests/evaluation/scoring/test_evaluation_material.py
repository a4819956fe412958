"""Records of a folder that do not fit together: answers to other prompts, stale replies, other settings, links."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluation_records import (
    evaluate,
    judgements_of,
    mt_bench_prompts,
    plain_prompts,
    write_answers,
    write_judgements,
    write_mt_bench,
    write_prompts,
)

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation import records
from fedllm_bench.evaluation.judges.questions import Question, Slot
from fedllm_bench.evaluation.judging import staleness
from fedllm_bench.evaluation.judging.grading import STALE
from fedllm_bench.evaluation.scoring.answered import read_folder
from fedllm_bench.report.page.evaluation_table import evaluation_table


def test_an_answer_to_another_version_of_a_prompt_is_no_answer(tmp_path):
    prompts = plain_prompts(2)
    write_prompts(tmp_path, "advbench", prompts)
    write_answers(tmp_path, "advbench", "base", plain_prompts(2, ask="Now do {i}!"), lambda p, turn: "Sorry.")
    side = evaluate(tmp_path).metrics["advbench_legacy"].views["mean"].sides["base"]
    assert (side.mean, side.unscored) == (None, {"the answer failed": 2})


def test_settings_other_than_the_published_ones_are_named(tmp_path):
    write_mt_bench(tmp_path, {"base": 6.0})
    plan = {"benchmark": {"version": "3", "items": 80}, "overrides": {"limit": 80, "temperature": None}, "seed": 1}
    files.write_json(tmp_path / "answers" / "mt_bench" / "plan.json", plan)
    evaluation = evaluate(tmp_path)
    assert (evaluation.benchmarks["mt_bench"].version, evaluation.benchmarks["mt_bench"].overrides) == (
        "3",
        {"limit": "80"},
    )
    assert "mt_bench was not answered as published: limit 80." in evaluation_table(evaluation)
    (tmp_path / "answers" / "mt_bench" / "plan.json").write_text('{"benchmark": 1}')
    with pytest.raises(UserError, match=r"plan\.json is no plan"):
        evaluate(tmp_path)


class StubAsker:
    """Requests as a judge would be asked: the messages are the answers so far."""

    @classmethod
    def of(cls, benchmark, *, paired):
        assert not paired
        if benchmark == "vicuna_bench":
            raise UserError("no network")
        return cls()

    def single(self, prompts, answers, repeats):
        for prompt in prompts:
            for turn in range(1, len(prompt.turns) + 1):
                for repeat in range(repeats):
                    yield Question(Slot(prompt.item_id, turn, repeat), answers[prompt.item_id].turns[:turn])


def test_a_reply_to_another_answer_does_not_count(tmp_path, monkeypatch):
    def request_hash(model, options, messages, repeat):
        return f"{model} {messages} {repeat}"

    monkeypatch.setattr(staleness, "Asker", StubAsker)
    monkeypatch.setattr(staleness, "request_hash", request_hash)
    prompts = mt_bench_prompts(8)
    for benchmark in ("mt_bench", "vicuna_bench"):
        write_prompts(tmp_path, benchmark, prompts)
        write_answers(tmp_path, benchmark, "base", prompts, lambda p, turn: f"{p.item_id} {turn}")
        told = [
            replace(j, request_hash=f"m {tuple(f'{j.item_id} {t}' for t in range(1, j.turn + 1))} 0")
            for j in judgements_of(prompts, lambda p, turn: "[[5]]")
        ]
        write_judgements(tmp_path, benchmark, "base", told)
    files.write_json(tmp_path / "judgements" / "stub" / "judge.json", {"model": "m", "options": {}, "more": 1})
    assert evaluate(tmp_path).metrics["mt_bench@stub"].views["mean"].sides["base"].mean == 5
    write_answers(tmp_path, "mt_bench", "base", prompts, lambda p, turn: f"{p.item_id} {turn}" * (p.item_id != "82"))
    evaluation = evaluate(tmp_path)
    side = evaluation.metrics["mt_bench@stub"].views["mean"].sides["base"]
    assert (side.mean, side.coverage) == (None, "7/8")
    assert read_folder(tmp_path)["mt_bench"].judgements["stub"]["base"][2].reason == STALE
    (note,) = read_folder(tmp_path)["vicuna_bench"].notes
    assert "could not be checked (no network)" in note
    (tmp_path / "judgements" / "stub" / "judge.json").write_text("[]")
    with pytest.raises(UserError, match=r"judge\.json names no judge"):
        evaluate(tmp_path)


@pytest.mark.parametrize("what", ["unknown item", "turns", "no prompts", "link", "twice"])
def test_records_that_do_not_fit_together_are_bad_input(tmp_path, what):
    prompts = mt_bench_prompts(8)
    write_prompts(tmp_path, "mt_bench", prompts * 2 if what == "twice" else prompts)
    answered = plain_prompts(1) if what in ("unknown item", "no prompts") else prompts
    write_answers(tmp_path, "mt_bench", "base", answered, lambda p, turn: "x")
    path = records.answers_file(tmp_path, "mt_bench", "base")
    if what == "turns":
        path.write_text(path.read_text().replace('"turns":["x","x"]', '"turns":["x"]'))
    if what == "no prompts":
        records.prompts_file(tmp_path, "mt_bench").unlink()
    if what == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"prompts\.jsonl|base\.jsonl"):
        read_folder(tmp_path)
