"""Scores of open-ended answers as a source of comparisons: clusters are questions, and judges are named.

The side that is compared is `global`, the trained adapter; of a folder with the answers of one model, that model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark, read_folder
from fedllm_bench.evaluation.scoring.score_all import Scored, score_all
from fedllm_bench.evaluation.scoring.views import per_question, values_of
from fedllm_bench.scores.score import Score

GLOBAL = "global"


def from_answers(folder: Path) -> dict[str, MetricScores]:
    """Every open-ended metric with a score; one that several judges graded is there once for each, with its judge.

    Raises a :class:`UserError` for records that do not fit together.
    """
    materials = read_folder(folder)
    scored = [one for one in score_all(materials, OPEN_METRICS) if _side(one) is not None]
    judges = Counter(one.metric.info.name for one in scored)
    named = {one.key if judges[one.metric.info.name] > 1 else one.metric.info.name: one for one in scored}
    return {name: _measured(one, materials[one.metric.benchmark]) for name, one in named.items()}


def _side(one: Scored) -> str | None:
    """The side that is compared, where it has a score."""
    name = GLOBAL if GLOBAL in one.sides else next(iter(one.sides)) if len(one.sides) == 1 else None
    return name if name is not None and any(score.is_scored for score in one.sides[name]) else None


def _measured(one: Scored, material: AnsweredBenchmark) -> MetricScores:
    info, side = one.metric.info, _side(one)
    plan = material.plan
    return MetricScores(
        scores=tuple(_independent(one, one.sides[side])) if side else (),
        version=info.version,
        unit=info.unit,
        higher_is_better=info.higher_is_better,
        cluster="question",
        scale=one.metric.scale,
        judge=one.judge or "",
        alike={
            "benchmark version": plan.benchmark.version,
            "settings of answers": _listed(f"{key} = {value}" for key, value in sorted(plan.changed.items())),
            "prompts' hash": files.sha256_json(sorted((p.item_id, p.hash) for p in material.prompts))[:16],
        },
    )


def _independent(one: Scored, scores: Sequence[Score]) -> Sequence[Score]:
    """Scores that an interval over questions can be made of."""
    made = values_of(one.metric)
    return scores if made is None else made(per_question(scores))


def _listed(settings: Iterable[str]) -> str:
    return ", ".join(settings) or "as published"
