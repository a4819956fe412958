"""Scores of open-ended answers and closed benchmarks as sources of comparisons: clusters are questions.

Judges are named. The side that is compared is `global`, the trained adapter; of a folder with the answers of one model,
that model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.evaluation.answering.plan import PlanHead
from fedllm_bench.evaluation.closed.closed_folder import ClosedMaterial, asked_hash, read_closed
from fedllm_bench.evaluation.closed.closed_scoring import score_closed
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
    return {name: _measured(one, _asked(materials[one.metric.benchmark])) for name, one in named.items()}


def from_closed(folder: Path) -> dict[str, MetricScores]:
    """Every metric of closed benchmarks with a score.

    Raises a :class:`UserError` for records that cannot be scored.
    """
    materials = read_closed(folder)
    return {
        one.key: _measured(one, _asked_closed(materials[one.metric.benchmark], side))
        for one in score_closed(materials)
        if (side := _side(one)) is not None
    }


def _side(one: Scored) -> str | None:
    """The side that is compared, where it has a score."""
    name = GLOBAL if GLOBAL in one.sides else next(iter(one.sides)) if len(one.sides) == 1 else None
    return name if name is not None and any(score.is_scored for score in one.sides[name]) else None


def _measured(one: Scored, asked: Mapping[str, str]) -> MetricScores:
    """`asked`: what must be alike on both sides of a comparison."""
    info, side = one.metric.info, _side(one)
    return MetricScores(
        scores=tuple(_independent(one, one.sides[side])) if side else (),
        version=info.version,
        unit=info.unit,
        higher_is_better=info.higher_is_better,
        cluster="question",
        scale=one.metric.scale,
        judge=one.judge or "",
        alike=asked,
    )


def _asked(material: AnsweredBenchmark) -> dict[str, str]:
    asked = files.sha256_json(sorted((p.item_id, p.hash) for p in material.prompts))
    return _by_plan(material.plan) | {"prompts' hash": asked[:16]}


def _asked_closed(material: ClosedMaterial, side: str) -> dict[str, str]:
    asked = asked_hash({**material.items, **material.sides[side]}.values())
    return _by_plan(material.plan) | {"prompts' hash": asked[:16]}


def _by_plan(plan: PlanHead) -> dict[str, str]:
    return {
        "benchmark version": plan.benchmark.version,
        "settings of answers": _listed(f"{key} = {value}" for key, value in sorted(plan.changed.items())),
    }


def _independent(one: Scored, scores: Sequence[Score]) -> Sequence[Score]:
    """Scores that an interval over questions can be made of."""
    made = values_of(one.metric)
    return scores if made is None else made(per_question(scores))


def _listed(settings: Iterable[str]) -> str:
    return ", ".join(settings) or "as published"
