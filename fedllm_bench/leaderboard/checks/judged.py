"""Judgements: every answer is judged once, by requests that the answers make, with replies that have a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.text import counted, part_of
from fedllm_bench.evaluation.judges.preset import IMPORTED, Preset
from fedllm_bench.evaluation.judges.questions import Asker, Question, Slot, request_hash
from fedllm_bench.evaluation.judges.rule import RuleJudge
from fedllm_bench.evaluation.judging.grading import slot_of
from fedllm_bench.evaluation.records import Judgement
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun

PRESET = TypeAdapter(Preset)
OF_FILE = ("id", "suite", IMPORTED)  # keys of judge.json beside those of a preset


def judgements(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """Each question to a judge is the one that the answers make, is asked once, and has a reply with a verdict."""
    for run in submitted.runs:
        for judge in run.files.judges():
            preset, problems = _preset(run, judge)
            yield from problems
            if preset is not None:
                for benchmark in run.files.benchmarks():
                    sides = run.files.sides(benchmark)
                    if any(run.files.has(f"judgements/{judge}/{benchmark}/{side}.jsonl") for side in sides):
                        for side in sides:
                            yield from _judged(run, preset, judge, benchmark, side)
        yield from _scored(run)


def _preset(run: SubmittedRun, judge: str) -> tuple[Preset | None, list[Problem]]:
    """The judge of judge.json, whose id is the hash of what its replies depend on."""
    where = f"{run.where}/judgements/{judge}/judge.json"
    stated = run.files.json(f"judgements/{judge}/judge.json")
    if not isinstance(stated, dict):
        return None, [Problem(code="judge", message="no judge: not a JSON object", where=where)]
    try:
        preset = PRESET.validate_python({key: value for key, value in stated.items() if key not in OF_FILE})
    except ValidationError as error:
        return None, [Problem(code="judge", message=f"no judge ({first_line(error)[:120]})", where=where)]
    if not judge == stated.get("id") == preset.id:
        text = f"its model, options and this suite's prompts make the id {preset.id}, not {judge[:100]!a}"
        return preset, [Problem(code="judge", message=text, where=where)]
    if preset.plugin:
        text = "it is a function of a plugin, which nobody can ask again; leave its judgements out"
        return None, [Problem(code="judge", message=text, where=where)]
    if preset.kind == IMPORTED:
        text = "its replies were recorded elsewhere and imported, and nobody can ask it again"
        return preset, [Problem(code="judge-imported", message=text, where=where, level="flagged")]
    return preset, []


def _judged(run: SubmittedRun, preset: Preset, judge: str, benchmark: str, side: str) -> Iterator[Problem]:
    where = f"{run.where}/judgements/{judge}/{benchmark}/{side}.jsonl.gz"
    told = [one for one in run.files.judgements(judge, benchmark, side) if not one.order]
    if not told:
        yield Problem(code="unjudged", message="its answers are not judged", where=where)
        return
    try:
        asker = Asker.of(benchmark)
    except UserError as error:
        text = f"requests are not checked: {first_line(error)[:200]}"
        yield Problem(code="judgements-unchecked", message=text, where=where, level="flagged")
        return
    answers = {answer.item_id: answer for answer in run.files.answers(benchmark, side)}
    repeats = 1 + max(one.repeat for one in told)
    asked = {q.slot: q for q in asker.single(run.files.prompts(benchmark), answers, repeats)}
    yield from _requests(told, asked, preset, where)


def _requests(
    told: Sequence[Judgement], asked: Mapping[Slot, Question], preset: Preset, where: str
) -> Iterator[Problem]:
    by_slot = {slot_of(one): one for one in told}
    if len(by_slot) < len(told):
        yield Problem(
            code="judgement-twice",
            message=f"{counted(len(told) - len(by_slot), 'question', 'have')} several",
            where=where,
        )
    if missing := [slot for slot in asked if slot not in by_slot or by_slot[slot].reply is None]:
        text = f"{part_of(len(missing), len(asked), 'question', 'have')} no reply, as {missing[0].item_id[:40]!a}"
        yield Problem(code="unjudged", message=text, where=where)
    hashes = {slot: request_hash(preset.model, preset.options, q.messages, slot.repeat) for slot, q in asked.items()}
    stale = [slot for slot, one in by_slot.items() if one.reply and one.request_hash != hashes.get(slot)]
    if stale:
        text = f"{counted(len(stale), 'reply', 'are')} to other requests than these answers make, "
        text += f"as {stale[0].item_id[:40]!a}"
        yield Problem(code="judgement-request", message=text, where=where)
    if preset.kind == "rule":
        rule = RuleJudge(preset)
        texts = {slot: reply.text for slot, q in asked.items() if (reply := rule.stored(q)) is not None}
        wrong = [slot for slot, one in by_slot.items() if one.reply and slot in texts and one.reply.text != texts[slot]]
        if wrong:
            text = f"{counted(len(wrong), 'reply', 'are')} not what this rule says, as {wrong[0].item_id[:40]!a}"
            yield Problem(code="judgement-rule", message=text, where=where)
    others = sorted({one.reply.model for one in told if one.reply and not _is_model(one.reply.model, preset.model)})
    if others:
        text = f"replies name another model than {preset.model!a}: {', '.join(others)[:120]!a}"
        yield Problem(code="judge-model", message=text, where=where, level="flagged")


def _is_model(named: str, asked: str) -> bool:
    """Endpoints answer with the snapshot of what was asked, as gpt-4-0613 for gpt-4."""
    return named.startswith(asked) or asked.endswith(f"/{named}")


def _scored(run: SubmittedRun) -> Iterator[Problem]:
    """What a judge was asked has a verdict in its reply."""
    for name, metric in run.scores.metrics.items():
        unscored = [score for score in metric.after if not score.is_scored] if metric.judge else []
        if unscored:
            text = f"{name}: {part_of(len(unscored), len(metric.after), 'question', 'have')} no score "
            text += f"({unscored[0].reason[:80]!a})"
            yield Problem(code="uncovered", message=text, where=f"{run.where}/judgements/{metric.judge}")


def records(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The records of a run fit together as the suite's own reader wants them."""
    for run in submitted.runs:
        for benchmark, material in run.materials.items():
            for note in material.notes:
                yield Problem(
                    code="judgements-unchecked",
                    message=note[:300],
                    where=f"{run.where}/answers/{benchmark}",
                    level="flagged",
                )
