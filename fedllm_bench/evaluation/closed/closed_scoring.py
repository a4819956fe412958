"""From the samples of closed benchmarks to scores, and whether lm-eval made the same of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedllm_bench.common.text import part_of
from fedllm_bench.evaluation.closed.closed_folder import ClosedMaterial, Samples, asked_hash
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample
from fedllm_bench.evaluation.closed.measures import ClosedMeasure, measures_of
from fedllm_bench.evaluation.scoring.evaluation_json import BenchmarkResult
from fedllm_bench.evaluation.scoring.score_all import Scored
from fedllm_bench.scores.score import Score

NO_ANSWER = "no answer of this side"
SMALLEST = 1e-6  # values closer than this are equal


def score_closed(materials: Mapping[str, ClosedMaterial]) -> list[Scored]:
    """Every measure of every benchmark: a score for each item, on every side that was asked."""
    return [
        Scored(
            metric=measure.metric(name, key),
            judge=None,
            sides={side: _scores(measure, material, samples) for side, samples in material.sides.items()},
            kind="closed",
            unpaired=material.unpaired,
        )
        for name, material in materials.items()
        for key, measure in measures_of(name, material.form).items()
    ]


def closed_results(materials: Mapping[str, ClosedMaterial]) -> dict[str, BenchmarkResult]:
    """What evaluation.json says of each benchmark. A question has one turn."""
    return {name: _result(material) for name, material in materials.items()}


def closed_notes(materials: Mapping[str, ClosedMaterial]) -> list[str]:
    """What a reader must know: sides that are not compared, and values on which lm-eval does not agree."""
    return [line for material in materials.values() for line in (*material.notes, *disagreements(material))]


def _result(material: ClosedMaterial) -> BenchmarkResult:
    items = material.items
    return BenchmarkResult(
        version=material.plan.benchmark.version,
        overrides=material.plan.changed,
        prompts_sha256=asked_hash(items.values()),
        num_prompts=len(items),
        num_turns=len(items),
        sides=tuple(material.sides),
    )


def _scores(measure: ClosedMeasure, material: ClosedMaterial, samples: Samples) -> list[Score]:
    several = len(material.tasks) > 1
    return [
        _placed(measure.of(samples[item]) if item in samples else Score(item, None, NO_ANSWER), asked, several)
        for item, asked in material.items.items()
    ]


def _placed(score: Score, asked: ClosedSample, several: bool) -> Score:
    group = {"category": asked.task} if several else {}
    return Score(score.item_id, score.value, score.reason, score.evidence, score.item_id, group, score.weight)


# --- lm-eval's own values


def disagreements(material: ClosedMaterial) -> list[str]:
    """A line for each measure and side of which lm-eval has another value than follows from the records."""
    return [line for side in material.sides for line in of_side(material, side)]


def of_side(material: ClosedMaterial, side: str) -> Iterator[str]:
    samples = list(material.sides[side].values())
    for key, measure in measures_of(material.name, material.form).items():
        wrong = [(sample, *values) for sample in samples if (values := _unequal(measure, sample))]
        if wrong:
            sample, ours, theirs = wrong[0]
            how_many = part_of(len(wrong), len(samples), "item", "have")
            yield (
                f"{key}, {side}: {how_many} another value than lm-eval gave, as {sample.item_id}: {ours:g}, and "
                f"lm-eval {theirs:g}; the numbers here follow from the records"
            )


def _unequal(measure: ClosedMeasure, sample: ClosedSample) -> tuple[float, float] | None:
    """Our value and lm-eval's, where they differ."""
    theirs = next((sample.values[name] for name in measure.theirs if name in sample.values), None)
    if theirs is None:
        return None
    ours = measure.of(sample).value
    return None if ours is None or abs(ours - theirs) <= SMALLEST else (ours, theirs)
