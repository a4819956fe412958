"""Open-ended answers: the prompts are the benchmark's, and every one is answered once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.text import counted, part_of
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, PromptContext
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.leaderboard.checks.context import CheckContext, config_of, split_of
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun


def prompts(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """What was asked is the benchmark, all of it, with the published settings."""
    for run in submitted.runs:
        for benchmark in run.files.benchmarks():
            where = f"{run.where}/answers/{benchmark}"
            if benchmark not in BENCHMARKS:
                yield Problem(code="prompts", message="this suite has no such benchmark", where=where)
                continue
            yield from _plan(run, benchmark, where)
            yield from _prompts(submitted, run, benchmark, context)


def plans(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The part of :func:`prompts` for which no benchmark is fetched."""
    for run in submitted.runs:
        for benchmark in run.files.benchmarks():
            if benchmark in BENCHMARKS:
                yield from _plan(run, benchmark, f"{run.where}/answers/{benchmark}")


def _plan(run: SubmittedRun, benchmark: str, where: str) -> Iterator[Problem]:
    plan = run.plan(benchmark)
    asked = run.files.prompts(benchmark)
    right = {
        "name": benchmark,
        "version": BENCHMARKS[benchmark].version,
        "items": len(asked),
        "prompts_hash": files.sha256_json([asdict(prompt) for prompt in asked])[:16],
    }
    if wrong := [key for key, value in right.items() if plan.benchmark.get(key) != value]:
        yield Problem(
            code="plan", message=f"{', '.join(wrong)} are not those of the prompts", where=f"{where}/plan.json"
        )
    if changed := {key: value for key, value in plan.overrides.items() if value is not None}:
        text = f"settings in place of the published ones: {str(changed)[:120]!a}"
        yield Problem(code="plan", message=text, where=f"{where}/plan.json")
    base_hash = run.files.entry.base_hash
    if base_hash and plan.model.get("base_hash") != base_hash:
        yield Problem(code="plan", message="another base model answered", where=f"{where}/plan.json")


def _prompts(submitted: Submitted, run: SubmittedRun, benchmark: str, context: CheckContext) -> Iterator[Problem]:
    where = f"{run.where}/answers/{benchmark}"
    try:
        right = _of_benchmark(submitted, run, benchmark, context)
    except UserError as error:
        text = f"whether they are the benchmark's is not checked: {first_line(error)[:200]}"
        yield Problem(code="prompts-not-at-hand", message=text, where=where, level="flagged")
        return
    asked = {prompt.item_id: prompt for prompt in run.files.prompts(benchmark)}
    if len(asked) < len(run.files.prompts(benchmark)):
        yield Problem(code="prompts", message="one item is asked twice", where=where)
    wanted = {prompt.item_id: prompt for prompt in right}
    if differing := {key for key in asked.keys() | wanted.keys() if asked.get(key) != wanted.get(key)}:
        text = f"{counted(len(differing), 'prompt', 'are')} not the benchmark's, as {min(differing)[:40]!a}"
        yield Problem(code="prompts", message=text, where=where)


def _of_benchmark(submitted: Submitted, run: SubmittedRun, benchmark: str, context: CheckContext) -> list[Prompt]:
    config, split = config_of(submitted, run, context), split_of(submitted, run, context)
    about = PromptContext(dataset=config.dataset if config else None, split=None if split is None else lambda: split)
    return BENCHMARKS[benchmark].prompts(about)


def coverage(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The sides that were asked, the trained model among them, have one whole answer to every prompt each."""
    for run in submitted.runs:
        for benchmark in run.files.benchmarks():
            asked = run.files.prompts(benchmark)
            where = f"{run.where}/answers/{benchmark}"
            there = run.files.sides(benchmark)
            for side in _asked_sides(run, benchmark):
                if side not in there:
                    yield Problem(code="uncovered", message=f"the side {side!r} has no answers", where=where)
            for side in there:
                yield from _answered(asked, run.files.answers(benchmark, side), f"{where}/{side}.jsonl.gz")


def _asked_sides(run: SubmittedRun, benchmark: str) -> list[str]:
    """Those of the plan, and the trained model unless single clients were asked; the base may be left out."""
    planned = run.plan(benchmark).sides
    of_clients = any(side.startswith("client-") for side in run.files.sides(benchmark))
    return sorted({*planned, *([] if of_clients else [GLOBAL])})


def _answered(asked: Sequence[Prompt], answers: Sequence[Answer], where: str) -> Iterator[Problem]:
    by_id = {answer.item_id: answer for answer in answers}
    if len(by_id) < len(answers):
        yield Problem(
            code="answer-twice",
            message=f"{counted(len(answers) - len(by_id), 'item', 'have')} several answers",
            where=where,
        )
    prompts = {prompt.item_id: prompt for prompt in asked}
    if strangers := by_id.keys() - prompts.keys():
        yield Problem(
            code="answer-unasked", message=f"{counted(len(strangers), 'answer')} to what was not asked", where=where
        )
    missing = [key for key, prompt in prompts.items() if not _is_answer(by_id.get(key), prompt)]
    if missing:
        text = f"{part_of(len(missing), len(prompts), 'prompt', 'have')} no whole answer, as {missing[0][:40]!a}"
        yield Problem(code="uncovered", message=text, where=where)


def _is_answer(answer: Answer | None, prompt: Prompt) -> bool:
    return (
        answer is not None
        and answer.is_whole
        and answer.prompt_hash == prompt.hash
        and len(answer.turns) == len(prompt.turns)
    )
