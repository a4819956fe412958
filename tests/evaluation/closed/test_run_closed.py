"""A model is asked closed benchmarks by lm-eval itself, on made rows in the columns of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.subjects import Subject, subject_of_model
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, read_samples, samples_file
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark, closed_benchmarks

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from fedllm_bench.evaluation.closed import likelihood, loading, run_closed
from fedllm_bench.evaluation.closed.run_closed import ClosedDone, ClosedRequest

ABSTRACT = {"anatomy": 5, "virology": 4}  # subjects and their questions


def write_rows(folder: Path, split: str, rows: Sequence[dict[str, Any]]) -> None:
    files.make_folder(folder)
    files.write_jsonl(folder / f"{split}.jsonl", rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made rows of MMLU, GSM8K and MedQA."""
    folder = tmp_path_factory.mktemp("data")
    for subject, count in ABSTRACT.items():
        for split, number in (("test", count), ("dev", 5), ("validation", 1)):
            rows = [
                {
                    "question": f"Which {subject} is {i} in {split}?",
                    "subject": subject,
                    "choices": [f"red {i}", f"blue {i} <|end|>", "green", "none"],
                    "answer": i % 4,
                }
                for i in range(number)
            ]
            write_rows(folder / "cais__mmlu" / subject, split, rows)
    sums = [{"question": f"What is {i} and {i}?", "answer": f"They are {2 * i}.\n#### {2 * i}"} for i in range(6)]
    for split in ("train", "test"):
        write_rows(folder / "openai__gsm8k", split, sums)
    return folder


@pytest.fixture(scope="module")
def subject(tiny_folder: Path) -> Subject:
    return subject_of_model(str(tiny_folder), "mini", "float32")


def benchmark(name: str = "mmlu", **changes: Any) -> ClosedBenchmark:
    tasks = {"mmlu": ("mmlu_anatomy", "mmlu_virology"), "gsm8k": ("gsm8k",)}[name]
    return replace(closed_benchmarks()[name], task=tasks, **changes)


def ask(folder: Path, subject: Subject, data: Path | None, *asked: ClosedBenchmark, **options: Any) -> list[ClosedDone]:
    request = ClosedRequest(folder=folder, benchmarks=asked or (benchmark(),), data=data, batch_tokens=512, **options)
    return list(run_closed.run_closed(request, subject, 1))


def test_samples_have_what_it_takes_to_score_them_again(tmp_path: Path, subject: Subject, data: Path) -> None:
    (done,) = ask(tmp_path, subject, data)
    assert [sample.item_id for sample in done.samples[:2]] == ["mmlu_anatomy/0", "mmlu_anatomy/1"]
    assert len(done.samples) == sum(ABSTRACT.values())
    for sample in done.samples:
        best = max(range(4), key=sample.log_likelihoods.__getitem__)
        assert sample.values["acc"] == float(str(best) == sample.target)
        assert sample.lengths == (1, 1, 1, 1)  # the letters
        assert len(sample.prompt_hash) == len(sample.doc_hash) == 64
    assert read_samples(samples_file(tmp_path, "mmlu", "base")) == done.samples
    plan = files.read_json(tmp_path / "closed/mmlu/plan.json")
    assert plan["overrides"]["data"] == "files"  # the report and a board say that they are not the published ones
    assert plan["benchmark"]["shots"] == {"mmlu_anatomy": 5, "mmlu_virology": 5}
    assert plan["benchmark"]["tasks"]["mmlu_anatomy"] == "1.0"
    assert plan["model"]["base_hash"] == subject.base_hash
    assert not list(tmp_path.glob("closed/*/*.partial"))


def test_a_second_time_nothing_is_computed(
    tmp_path: Path, subject: Subject, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(tmp_path, subject, data)
    monkeypatch.setattr(likelihood, "_batch", None)
    (again,) = ask(tmp_path, subject, data)
    assert not again.is_new


def test_what_was_interrupted_goes_on(
    tmp_path: Path, subject: Subject, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = ask(tmp_path / "whole", subject, data)
    real, seen = likelihood._batch, []

    def interrupted(*args: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(args[3]))
        return real(*args)

    monkeypatch.setattr(likelihood, "_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "part", subject, data)
    assert (tmp_path / "part/closed/mmlu/base.jsonl.partial").is_file()
    assert not (tmp_path / "part/closed/mmlu/base.jsonl").exists()
    monkeypatch.setattr(likelihood, "_batch", lambda *args: seen.append(len(args[3])) or real(*args))
    (done,) = ask(tmp_path / "part", subject, data)
    assert sum(seen) == sum(ABSTRACT.values())  # one row a question, each once
    assert done.samples == whole.samples  # to the last bit


def assert_alike(found: Sequence[ClosedSample], expected: Sequence[ClosedSample]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-5)
        assert replace(one, log_likelihoods=()) == replace(other, log_likelihoods=())


def test_other_settings_than_before_are_refused(tmp_path: Path, subject: Subject, data: Path) -> None:
    ask(tmp_path, subject, data, limit=1)
    with pytest.raises(UserError, match=r"overrides\.limit is None, was 1"):
        ask(tmp_path, subject, data)


def test_generated_answers_keep_text_and_what_was_read_from_it(tmp_path: Path, subject: Subject, data: Path) -> None:
    (done,) = ask(tmp_path, subject, data, benchmark("gsm8k"), limit=3)
    assert len(done.samples) == 3
    sample = done.samples[1]
    assert sample.target.endswith("#### 2")
    assert len(sample.texts) == len(sample.parsed) == 1
    assert {"exact_match", "exact_match,strict-match"} == set(sample.values)
    assert "[invalid]" not in sample.parsed[0]


@pytest.mark.parametrize("template", ["model", "train"])
def test_with_a_chat_template_prompts_have_their_hash_of_before(
    tmp_path: Path, subject: Subject, data: Path, template: Any
) -> None:
    """Secret names of marks are another in every process, and are not part of it."""
    (done,) = ask(tmp_path, subject, data, template=template, limit=2)
    (bare,) = ask(tmp_path / "bare", subject, data, limit=2)
    assert done.samples[0].prompt_hash != bare.samples[0].prompt_hash
    assert done.samples[0].doc_hash == bare.samples[0].doc_hash
    from fedllm_bench.data import control

    control._plain.cache_clear()
    (again,) = ask(tmp_path / "again", subject, data, template=template, limit=2)
    assert_alike(again.samples, done.samples)


def test_every_side_sees_the_same_examples(tmp_path: Path, subject: Subject, data: Path) -> None:
    """GSM8K draws them at random."""
    base = subject.sides[0]
    sides = replace(subject, sides=(base, replace(base, name="global")))
    first, second = ask(tmp_path, sides, data, benchmark("gsm8k"), limit=2)
    assert [one.prompt_hash for one in first.samples] == [one.prompt_hash for one in second.samples]


def test_a_task_of_lm_eval_that_runs_programs_is_not_even_loaded(tmp_path: Path, subject: Subject) -> None:
    """Its file would run one on loading."""
    unsafe = replace(closed_benchmarks()["humaneval"], task=("humaneval",), folder="humaneval")
    with pytest.raises(UserError, match="runs a model's programs without a sandbox"):
        ask(tmp_path, subject, None, unsafe, allow_code=True)


def test_data_that_cannot_be_had_is_one_line(
    tmp_path: Path, subject: Subject, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(**options: Any) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(
        UserError, match=r"^mmlu_anatomy: its data cais/mmlu could not be fetched from the hub \(no network\)"
    ):
        ask(tmp_path, subject, None)
    with pytest.raises(UserError, match=r"--data-dir .*: gsm8k asks for openai__gsm8k"):
        ask(tmp_path, subject, tmp_path, benchmark("gsm8k"))
    with pytest.raises(UserError, match="no such folder"):
        ask(tmp_path, subject, tmp_path / "none")


@pytest.mark.parametrize("content", ["not JSON", '{"question": "a"}\n', ""])
def test_rows_of_another_kind_are_one_line(tmp_path: Path, subject: Subject, content: str) -> None:
    for split in ("train", "test"):
        path = tmp_path / "data/openai__gsm8k" / f"{split}.jsonl"
        files.make_folder(path.parent)
        path.write_text(content)
    with pytest.raises(UserError, match="gsm8k") as error:
        ask(tmp_path, subject, tmp_path / "data", benchmark("gsm8k"), limit=2)
    assert "\n" not in str(error.value)


def test_a_diverged_model_has_no_answers(
    tmp_path: Path, subject: Subject, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = likelihood._token_scores
    monkeypatch.setattr(likelihood, "_token_scores", lambda *args: ([float("nan")] * len(args[3]), real(*args)[1]))
    (done,) = ask(tmp_path, subject, data, limit=1)
    assert len(done.failed) == 2
    assert all(sample.log_likelihoods == () and not sample.values for sample in done.samples)
    assert json.loads(samples_file(tmp_path, "mmlu", "base").read_text().split("\n")[0])["reason"].startswith("no like")


def test_a_group_is_read_without_all_task_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with loading._index(closed_benchmarks()["mmlu"], {}) as index:
        assert len(list(loading._leaves(index, "mmlu"))) == 57
        assert len(index.all_tasks) < 200


def test_threads_and_random_numbers_are_as_before(tmp_path: Path, subject: Subject, data: Path) -> None:
    import random

    random.seed(7)
    before = random.random()
    random.seed(7)
    ask(tmp_path, subject, data, limit=1)
    assert random.random() == before
    assert torch.get_num_threads() == 1
