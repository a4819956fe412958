"""Our own task files are asked of a model from files in place of the hub, and scored from what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.subjects import Subject, subject_of_model
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample
from fedllm_bench.evaluation.closed.declared import closed_benchmarks
from fedllm_bench.evaluation.closed.measures import measures_of

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from closed_rows import MADE

from fedllm_bench.evaluation.closed.loading import load_tasks
from fedllm_bench.evaluation.closed.run_closed import ClosedRequest, run_closed

ASKED = ("fpb", "fiqa", "crass", "hhh_other", "conala", "flowertune_medqa", "pubmedqa", "raft", "quac", "gsm8k_fsllm")


@pytest.fixture(scope="module")
def subject(tiny_folder: Path) -> Subject:
    return subject_of_model(str(tiny_folder), "mini", "float32")


def samples(name: str, folder: Path, subject: Subject) -> list[ClosedSample]:
    benchmark = closed_benchmarks()[name]
    for split, rows in MADE[benchmark.data].splits.items():
        place = folder / "data" / benchmark.data.replace("/", "__")
        files.make_folder(place)
        files.write_jsonl(place / f"{split}.jsonl", [_in_texts(name, row) for row in rows])
    asked = replace(benchmark, task=benchmark.task[:2])
    request = ClosedRequest(
        folder=folder, benchmarks=(asked,), data=folder / "data", batch_tokens=2048, limit=2, template="none"
    )
    (done,) = run_closed(request, subject, 1)
    assert not done.failed
    return done.samples


def _in_texts(name: str, row: dict[str, object]) -> dict[str, object]:
    """JSON has no names of classes: RAFT's labels are texts there."""
    return (
        {**row, "Label": ("Unlabeled", "is related", "not: related")[int(str(row["Label"]))]} if name == "raft" else row
    )


@pytest.mark.parametrize("name", ASKED)
def test_every_score_follows_from_the_samples_and_is_lm_eval_s(
    name: str, tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = samples(name, tmp_path, subject)
    assert len(found) == 2 * min(2, len(closed_benchmarks()[name].task))
    for measure in measures_of(name, found[0].form).values():
        for sample in found:
            score = measure.of(sample)
            assert score.is_scored, (measure.name, score.reason)
            theirs = [sample.values[value] for value in measure.theirs if value in sample.values]
            assert theirs in ([], [score.value])


def test_crass_is_read_from_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV with semicolons and a mark of its encoding, as its authors publish it."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    head = "PCTID;BatchID;Premise;QCC;CorrectAnswer;Answer1;Answer2;PossibleAnswer3"
    lines = [f"{number};1;A bird sings, 漢.;What if?;right {number};b;c;" for number in range(4)]
    place = tmp_path / "apergo-ai__CRASS-data-set"
    files.make_folder(place)
    for split in ("train", "test"):
        (place / f"{split}.csv").write_text("\n".join([head, *lines]), encoding="utf-8-sig")
    (task,) = load_tasks(closed_benchmarks()["crass"], tmp_path).values()
    assert len(task.eval_docs) == 4
    assert task.eval_docs[0]["question"].startswith("A bird sings, 漢. What if?\nA. ")


def test_what_the_hub_does_not_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(UserError, match=r"^fedllm_fpb: its data takala/financial_phrasebank could not .*\(no route\)"):
        load_tasks(closed_benchmarks()["fpb"])
