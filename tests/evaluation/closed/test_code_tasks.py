"""Each code benchmark from lm-eval's questions to verdicts, on made rows in its upstream's columns."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from code_rows import ALL_CODE, CODE, MADE_CODE, NAMES, passes, says, write_data

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from closed_models import RuleModel
from lm_eval.evaluator import evaluate

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.evaluation.answering.subjects import Subject, subject_of_model
from fedllm_bench.evaluation.closed import code_grading, run_closed
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, read_samples, samples_file, write_samples
from fedllm_bench.evaluation.closed.code_grading import NOT_ALLOWED, grade_file, is_waiting
from fedllm_bench.evaluation.closed.code_tasks import CODE_TASKS
from fedllm_bench.evaluation.closed.collecting import samples_of
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark
from fedllm_bench.evaluation.closed.loading import load_tasks
from fedllm_bench.evaluation.closed.run_closed import ClosedRequest
from fedllm_bench.evaluation.closed.sandbox.choice import choose_shell
from fedllm_bench.evaluation.closed.sandbox.programs import LANGUAGES
from fedllm_bench.evaluation.closed.sandbox.shells import ProcessShell, Shell


@pytest.fixture(scope="module")
def shell() -> Shell:
    """The strongest that this machine has, or what it can do without namespaces."""
    return choose_shell("process")[0]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless loops end after two seconds of a core."""
    quick = {name: replace(task, limits=replace(task.limits, cpu_seconds=2)) for name, task in CODE_TASKS.items()}
    monkeypatch.setattr(code_grading, "CODE_TASKS", quick)


def only(name: str) -> ClosedBenchmark:
    """DS-1000 with two of its libraries: torch and tensorflow take seconds to load."""
    tasks = ("fedllm_ds1000_numpy", "fedllm_ds1000_tensorflow")
    return replace(CODE[name], task=tasks) if name == "ds1000" else CODE[name]


def asked(name: str, folder: Path) -> tuple[list[ClosedSample], RuleModel]:
    """As run_closed asks, of a model that answers by a rule."""
    write_data(name, folder)
    benchmark = only(name)
    tasks = load_tasks(benchmark, folder)
    for task in tasks.values():
        task.set_config(key="num_fewshot", value=benchmark.shots)
        task.set_fewshot_seed(seed=0)
    model = RuleModel(says(name))
    logged = {"tasks": tasks, "groups": {}, "group_map": {}}
    found = evaluate(lm=model, task_dict=logged, bootstrap_iters=0, log_samples=True)
    return samples_of(benchmark, found["samples"], tasks, {}, str), model


def test_every_benchmark_of_code_is_ours_and_has_rows_and_a_way_to_run():
    assert set(MADE_CODE) == set(CODE)
    assert len(CODE) == 9
    tasks = [task for benchmark in CODE.values() for task in benchmark.task]
    assert sorted(tasks) == sorted(CODE_TASKS)
    assert {task.language for task in CODE_TASKS.values()} == set(LANGUAGES)
    parts = [task for name in ALL_CODE.keys() - CODE.keys() for task in ALL_CODE[name].task]
    assert sorted(parts) == sorted(CODE["ds1000"].task)
    assert all((benchmark.form, benchmark.metric, benchmark.filter) == ("code", "pass@1", "none")
               for benchmark in CODE.values())  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_right_programs_pass_and_wrong_and_hostile_ones_fail(name: str, tmp_path: Path, shell: Shell):
    samples, _ = asked(name, tmp_path)
    assert all(is_waiting(sample) and sample.reason == NOT_ALLOWED for sample in samples)
    if LANGUAGES[CODE_TASKS[CODE[name].task[0]].language].tool() is None:
        pytest.skip("what runs this language is not installed")
    path = tmp_path / "base.jsonl"
    write_samples(path, samples)
    left = grade_file(path, shell, name)
    found = read_samples(path)
    number = 5 if name == "humaneval_fsllm" else 1
    here = found[: len(passes(name))]
    assert [sample.passed for sample in here] == [(passed,) * number for passed in passes(name)]
    assert {sample.reason for sample in here} == {""}
    assert left == len(found) - len(here) == (1 if name == "ds1000" else 0)
    assert list(tmp_path.glob("*.programs")) == []


def test_a_missing_library_is_a_reason_and_no_zero(tmp_path: Path, shell: Shell):
    pytest.importorskip("numpy")
    samples, _ = asked("ds1000", tmp_path)
    assert {sample.task for sample in samples} == {"fedllm_ds1000_numpy", "fedllm_ds1000_tensorflow"}
    path = tmp_path / "base.jsonl"
    write_samples(path, [sample for sample in samples if sample.task.endswith("tensorflow")])
    assert grade_file(path, shell, "ds1000") == 1
    (sample,) = read_samples(path)
    assert sample.reason.startswith("not run: tensorflow cannot be imported where programs run")
    assert sample.passed == ()
    assert sample.texts


def test_the_seven_libraries_of_ds1000_are_seven_tasks(tmp_path: Path):
    tasks = load_tasks(write_data("ds1000", tmp_path), tmp_path)
    libraries = {name: {doc["metadata"]["library"] for doc in task.test_docs()} for name, task in tasks.items()}
    assert libraries == {f"fedllm_ds1000_{library.lower()}": {library} for library in NAMES}


def test_the_shots_of_mbpp_are_those_of_its_prompt_split(tmp_path: Path):
    _, model = asked("mbpp", tmp_path)
    assert all(prompt.count("[BEGIN]") == 4 and prompt.count("[DONE]") == 3 for prompt in model.seen)
    assert all(prompt.endswith("[BEGIN]\n") for prompt in model.seen)


def test_the_prompts_of_humanevalpack_show_what_is_wrong_and_begin_the_answer(tmp_path: Path):
    _, model = asked("humanevalfix", tmp_path)
    assert all("return a - b\n\ndef check" in prompt for prompt in model.seen)
    assert all(
        prompt.endswith("Fix bugs in add.\n\nfrom typing import List\n\n\ndef add(a, b):") for prompt in model.seen
    )
    _, model = asked("humanevalsynthesize", tmp_path)
    assert all("return a - b" not in prompt and prompt.endswith('"""') for prompt in model.seen)


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "ds1000", "multipl_e_js", "humanevalfix"])
def test_rows_of_another_set_are_one_line(name: str, tmp_path: Path):
    write_data(name, tmp_path)
    for path in tmp_path.rglob("*.jsonl"):
        path.write_text('{"question": "a", "metadata": {"library": "Numpy"}}\n')
    with pytest.raises(UserError, match=r"column|row") as error:
        load_tasks(CODE[name], tmp_path)
    assert "\n" not in str(error.value)


def test_lm_evals_own_code_tasks_are_never_imported():
    assert not [name for name in sys.modules if name.startswith(("lm_eval.tasks.humaneval", "lm_eval.tasks.mbpp"))]
    assert "evaluate" not in sys.modules


# --- the step that runs programs


@pytest.fixture(scope="module")
def subject(tiny_folder: Path) -> Subject:
    return subject_of_model(str(tiny_folder), "mini", "float32")


def ask(folder: Path, subject: Subject, data: Path, name: str = "humaneval", **options: Any) -> run_closed.ClosedDone:
    options = {"limit": 2, "batch_tokens": 512, **options}
    request = ClosedRequest(folder=folder, benchmarks=(only(name),), data=data, **options)
    (done,) = run_closed.run_closed(request, subject, 1)
    return done


def test_without_permission_programs_are_kept_and_with_it_later_only_they_are_run(
    tmp_path: Path, subject: Subject, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "data"
    write_data("humaneval", data)
    with caplog.at_level(logging.WARNING):
        done = ask(tmp_path, subject, data)
    assert "humaneval: programs are written and kept, but not run, so unscored" in caplog.text
    assert "--allow-code" in caplog.text
    assert [sample.reason for sample in done.samples] == [NOT_ALLOWED] * 2
    assert all(sample.texts and "def add" in sample.texts[0] for sample in done.samples)
    monkeypatch.setattr(run_closed._ClosedWork, "_asked", lambda *_: pytest.fail("it was asked again"))
    done = ask(tmp_path, subject, data, allow_code=True, sandbox="process")
    assert [sample.passed for sample in done.samples] == [(False,), (False,)]
    assert not done.failed
    monkeypatch.setattr(code_grading, "run_programs", lambda *_: pytest.fail("it was run again"))
    assert ask(tmp_path, subject, data, allow_code=True, sandbox="process").samples == done.samples


def test_five_answers_of_an_item_are_drawn_by_the_published_settings(tmp_path: Path, subject: Subject):
    data = tmp_path / "data"
    write_data("humaneval_fsllm", data)
    done = ask(tmp_path, subject, data, "humaneval_fsllm", limit=1)
    (sample,) = done.samples
    assert len(sample.texts) == 5
    assert len(set(sample.texts)) > 1  # each has draws of its own


def written(path: Path, count: int = 3, **changes: Any) -> list[ClosedSample]:
    samples = [
        ClosedSample(task="fedllm_humaneval", doc_id=number, doc_hash="a", prompt_hash="b", target_hash="c",
                     form="code", target="", texts=(f"assert {number} % 2 == 0",), values={}, reason=NOT_ALLOWED)
        for number in range(count)
    ]  # fmt: skip
    samples = [replace(sample, **changes) for sample in samples]
    write_samples(path, samples)
    return samples


def test_a_killed_grading_goes_on_from_where_it_was(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch):
    path = samples_file(tmp_path, "humaneval", "base")
    written(path)
    put, seen = Ledger.put, []

    def killed(self: Ledger, name: str, value: object) -> None:
        if seen:
            raise KeyboardInterrupt
        put(self, name, value)
        seen.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            grade_file(path, shell, "humaneval")
    assert all(map(is_waiting, read_samples(path)))
    run, wanted = code_grading.run_programs, []
    monkeypatch.setattr(code_grading, "run_programs", lambda a, runs, *b: wanted.append(len(runs)) or run(a, runs, *b))
    assert grade_file(path, shell, "humaneval") == 0
    assert wanted == [2]
    assert [sample.passed for sample in read_samples(path)] == [(True,), (False,), (True,)]


def test_a_program_that_could_not_be_run_is_unscored_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = samples_file(tmp_path, "humaneval", "base")
    written(path)
    with monkeypatch.context() as patch:
        patch.setattr(ProcessShell, "command", lambda *_: ["/bin/sh", "-c", "echo 'no more processes' >&2; exit 1"])
        assert grade_file(path, ProcessShell(), "humaneval") == 3
    assert {sample.reason for sample in read_samples(path)} == {"not run: no more processes"}
    assert grade_file(path, choose_shell("process")[0], "humaneval") == 0


def test_samples_of_a_strange_task_are_unscored(tmp_path: Path, shell: Shell):
    path = samples_file(tmp_path, "humaneval", "base")
    written(path, 1, task="another_task")
    assert grade_file(path, shell, "humaneval") == 1
    assert read_samples(path)[0].reason == "not run: another_task is no task whose programs can be run"


def test_no_shell_is_looked_for_where_no_program_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(code_grading, "choose_shell", lambda _: pytest.fail("it was looked for"))
    assert code_grading.code_step([replace(CODE["mbpp"], needs_code=False)], "auto") is None
    assert code_grading.code_step([CODE["mbpp"]], None) is None


def test_a_line_says_what_a_weak_shell_leaves_open(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(code_grading, "choose_shell", lambda _: (ProcessShell(), "it does not stop UDP"))
    with caplog.at_level(logging.WARNING):
        assert code_grading.code_step([CODE["mbpp"]], "process") is not None
    assert "it does not stop UDP" in caplog.text
