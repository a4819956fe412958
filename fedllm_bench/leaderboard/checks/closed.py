"""Closed benchmarks: every side was asked every item once, as declared, and lm-eval's values follow from the records.

What a model said cannot be checked without the model: the tiers that ask again do that. Numbers that a record holds
twice must agree, so whoever changes one must change the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedllm_bench.common.text import part_of
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.closed.closed_folder import ClosedMaterial, Samples
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample
from fedllm_bench.evaluation.closed.closed_scoring import of_side
from fedllm_bench.evaluation.closed.declared import MINI_WORLD, VERSION, closed_benchmarks
from fedllm_bench.evaluation.closed.tasks.mini_world import document_hash, questions
from fedllm_bench.evaluation.scoring.answered import BASE
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.identity import CLOSE, FEW
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun


def closed(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    for run in submitted.runs:
        for name, material in run.closed.items():
            where = f"{run.where}/closed/{name}"
            if name not in closed_benchmarks():
                yield Problem(code="prompts", message="this suite has no such closed benchmark", where=where)
                continue
            yield from _asked(material, where)
            for side in material.sides:
                yield from _side(material, side, f"{where}/{side}.jsonl.gz")
            yield from _plan(run, material, f"{where}/plan.json")
            yield from _world(run, material, where)


def bases(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The base of every seed is one model, which answers alike but for rounding."""
    first: dict[str, tuple[int, Samples]] = {}
    for run in submitted.runs:
        for name, material in run.closed.items():
            if BASE in material.sides:
                seed, known = first.setdefault(name, (run.seed, material.sides[BASE]))
                yield from _alike(material.sides[BASE], known, seed, f"{run.where}/closed/{name}/{BASE}.jsonl.gz")


def _alike(samples: Samples, known: Samples, seed: int, where: str) -> Iterator[Problem]:
    far = [item for item in samples.keys() | known.keys() if not _is_near(samples.get(item), known.get(item))]
    if len(far) > FEW * max(1, len(samples)):
        text = f"the base answered otherwise than for seed {seed} in {part_of(len(far), len(samples), 'item')}"
        yield Problem(code="base", message=text, where=where)


def _is_near(one: ClosedSample | None, other: ClosedSample | None) -> bool:
    if one is None or other is None or len(one.log_likelihoods) != len(other.log_likelihoods):
        return False
    pairs = zip(one.log_likelihoods, other.log_likelihoods, strict=True)
    near = all(math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) for a, b in pairs)
    return near and one.parsed == other.parsed and one.passed == other.passed


def _asked(material: ClosedMaterial, where: str) -> Iterator[Problem]:
    if GLOBAL not in material.sides and not any(side.startswith("client-") for side in material.sides):
        yield Problem(code="uncovered", message=f"the side {GLOBAL!r} has no answers", where=where)
    for side in sorted(material.unpaired):
        text = f"{side} was asked with other prompts, or for other answers, than the base"
        yield Problem(code="prompts", message=text, where=f"{where}/{side}.jsonl.gz")


def _side(material: ClosedMaterial, side: str, where: str) -> Iterator[Problem]:
    samples, form = material.sides[side], closed_benchmarks()[material.name].form
    missing = [item for item in material.items if item not in samples or samples[item].reason]
    if missing:
        text = f"{part_of(len(missing), len(material.items), 'item', 'have')} no answer, as {missing[0][:60]!a}"
        yield Problem(code="uncovered", message=text, where=where)
    if other := sorted({sample.form for sample in samples.values()} - {form}):
        yield Problem(code="record", message=f"samples of the form {', '.join(other)}, not {form}", where=where)
    for line in of_side(material, side):
        yield Problem(code="evidence", message=line[:400], where=where)


def _plan(run: SubmittedRun, material: ClosedMaterial, where: str) -> Iterator[Problem]:
    plan, declared = run.plan(material.name, "closed"), closed_benchmarks()[material.name]
    right = {"name": declared.name, "version": VERSION, "metric": declared.metric, "filter": declared.filter}
    wrong = [key for key, value in right.items() if plan.benchmark.get(key) != value]
    shots = plan.benchmark.get("shots")
    if not isinstance(shots, dict) or not {*map(str, shots.values())} <= {"0", str(declared.shots)}:
        wrong.append("shots")
    if (plan.template.get("name") == "none") != (declared.template == "none"):
        wrong.append("template")
    if wrong:
        yield Problem(code="plan", message=f"{', '.join(wrong)} are not those of {declared.name}", where=where)
    if changed := material.plan.changed:
        text = f"settings in place of the published ones: {str(changed)[:120]!a}"
        yield Problem(code="plan", message=text, where=where)
    base_hash = run.files.entry.base_hash
    if base_hash and plan.model.get("base_hash") != base_hash:
        yield Problem(code="plan", message="another base model answered", where=where)


def _world(run: SubmittedRun, material: ClosedMaterial, where: str) -> Iterator[Problem]:
    """Questions about the mini world follow from its seed, all of them with their right answers."""
    if closed_benchmarks()[material.name].data != MINI_WORLD or not run.files.has("config.json"):
        return
    right = dict(enumerate(questions(run.config.data.world_seed)))
    asked = [one for samples in material.sides.values() for one in samples.values()]
    other = [one for one in asked if not _is_of(one, right.get(one.doc_id))]
    if other or len(material.items) != len(right):
        text = f"{part_of(len(other), len(asked), 'sample', 'are')} not of the mini world's {len(right)} questions"
        yield Problem(code="prompts", message=text, where=where)


def _is_of(sample: ClosedSample, row: Mapping[str, Any] | None) -> bool:
    if row is None:
        return False
    target = str(row["right"]) if sample.form == "choice" else row["answer"]
    return sample.target == target and sample.doc_hash == document_hash(row)
