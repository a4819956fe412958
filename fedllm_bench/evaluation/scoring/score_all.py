"""All metrics over all that a folder holds: the scores, and evaluation.json from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from fedllm_bench.common import files
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS, OpenMetric
from fedllm_bench.evaluation.metrics.scored_metric import ScoredMetric
from fedllm_bench.evaluation.records import Judgement
from fedllm_bench.evaluation.scoring import evaluation_json
from fedllm_bench.evaluation.scoring.answered import BASE, AnsweredBenchmark
from fedllm_bench.evaluation.scoring.estimates import ScoreRules, change, side_estimate
from fedllm_bench.evaluation.scoring.pair_results import pair_results
from fedllm_bench.evaluation.scoring.views import QuestionView, labelled, values_of, views_of
from fedllm_bench.scores.levels import CONFIDENCE
from fedllm_bench.scores.score import Score


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """`min_coverage`: the share of its questions that a mean must rest on; `embedding_model` is only named here."""

    min_coverage: float = 1.0
    embedding_model: str = ""
    metrics: Mapping[str, OpenMetric] = field(default_factory=lambda: OPEN_METRICS)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of one metric under one judge: side -> one for each question and turn.

    `kind`: of the benchmark. `unpaired`: sides that were asked otherwise than the base, so no difference is made.
    """

    metric: ScoredMetric
    judge: str | None
    sides: Mapping[str, Sequence[Score]]
    kind: evaluation_json.BenchmarkKind = "open"
    unpaired: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """Its name in evaluation.json: numbers of two judges must never be taken for one metric."""
        return f"{self.metric.info.name}@{self.judge}" if self.judge else self.metric.info.name


def score_all(materials: Mapping[str, AnsweredBenchmark], metrics: Mapping[str, OpenMetric]) -> list[Scored]:
    """Every metric of the benchmarks that are there, under every judge that graded them; "no judge" where none did."""
    found = []
    for metric in metrics.values():
        material = materials.get(metric.benchmark)
        if material is not None:
            judges: list[str | None] = [*material.judges] if metric.needs_judge else []
            found += [_scored(metric, material, judge) for judge in judges or [None]]
    return [scored for scored in found if any(scored.sides.values())]


def _scored(metric: OpenMetric, material: AnsweredBenchmark, judge: str | None) -> Scored:
    told = material.judgements[judge] if judge else {}
    if metric.across is not None:
        sides = metric.across(material.prompts, material.answers)
    else:
        sides = {
            side: metric.score(material.prompts, answers, told.get(side, ()))
            for side, answers in material.answers.items()
        }
    shown = {side: labelled(scores, material.prompts, material.clients) for side, scores in sides.items()}
    return Scored(metric=metric, judge=judge, sides=shown)


def evaluation_of(
    materials: Mapping[str, AnsweredBenchmark],
    scored: Iterable[Scored],
    options: ScoringOptions,
    closed: Mapping[str, evaluation_json.BenchmarkResult] | None = None,
) -> evaluation_json.EvaluationResults:
    """`scored` holds the metrics of `closed` benchmarks too."""
    return evaluation_json.EvaluationResults(
        schema_version=evaluation_json.SCHEMA_VERSION,
        settings=evaluation_json.EvaluationSettings(
            min_coverage=options.min_coverage,
            embedding_model=options.embedding_model,
            level=CONFIDENCE,
            samples=0,
            seed=0,
            bootstrap_from=None,  # no interval is made by resampling
        ),
        benchmarks={name: _benchmark(material) for name, material in materials.items()} | dict(closed or {}),
        judges=_judges(materials),
        metrics={one.key: _metric(one, options) for one in scored},
        pairs=pair_results(materials, min_coverage=options.min_coverage),
    )


def _benchmark(material: AnsweredBenchmark) -> evaluation_json.BenchmarkResult:
    prompts = sorted((asdict(prompt) for prompt in material.prompts), key=lambda prompt: str(prompt["item_id"]))
    return evaluation_json.BenchmarkResult(
        version=material.plan.benchmark.version,
        overrides=material.plan.changed,
        prompts_sha256=files.sha256_json(prompts),
        num_prompts=len(prompts),
        num_turns=sum(len(prompt.turns) for prompt in material.prompts),
        sides=tuple(material.sides),
    )


def _judges(materials: Mapping[str, AnsweredBenchmark]) -> dict[str, evaluation_json.JudgeResult]:
    told: dict[str, list[Judgement]] = {}
    for material in materials.values():
        for judge, sides in material.judgements.items():
            told.setdefault(judge, []).extend(judgement for side in sides.values() for judgement in side)
        for pairs in material.pairs:
            told.setdefault(pairs.judge, []).extend(pairs.judgements)
    return {judge: _judge(told[judge]) for judge in sorted(told)}


def _judge(judgements: Sequence[Judgement]) -> evaluation_json.JudgeResult:
    replies = [judgement.reply for judgement in judgements if judgement.reply is not None]
    prices = [reply.price for reply in replies if reply.price is not None]
    return evaluation_json.JudgeResult(
        models=tuple(sorted({reply.model for reply in replies} - {""})),
        fingerprints=tuple(sorted({reply.fingerprint for reply in replies} - {""})),
        num_replies=len(replies),
        num_without_reply=len(judgements) - len(replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        price=sum(prices) if len(prices) == len(replies) else None,
        seconds=sum(reply.seconds for reply in replies),
    )


def _metric(one: Scored, options: ScoringOptions) -> evaluation_json.MetricResult:
    metric, info = one.metric, one.metric.info
    rules = ScoreRules(
        low=metric.low,
        high=metric.high,
        min_coverage=options.min_coverage,
        is_together=values_of(metric) is not None,
    )
    everything = [score for side in one.sides.values() for score in side]
    views = views_of(everything, metric)
    return evaluation_json.MetricResult(
        metric=info.name,
        benchmark=metric.benchmark,
        judge=one.judge,
        needs_judge=metric.needs_judge,
        version=info.version,
        unit=info.unit,
        low=metric.low,
        high=metric.high,
        higher_is_better=info.higher_is_better,
        description=info.description,
        kind=one.kind,
        views={view.name: _view(view, one, rules) for view in views},
    )


def _view(view: QuestionView, one: Scored, rules: ScoreRules) -> evaluation_json.ViewResult:
    kept = {side: view.of(scores) for side, scores in one.sides.items()}
    return evaluation_json.ViewResult(
        estimator=view.estimator.description,
        sides={side: side_estimate(scores, view.estimator, rules) for side, scores in kept.items()},
        differences={
            side: change(scores, kept[BASE], view.estimator, rules)
            for side, scores in kept.items()
            if side != BASE and BASE in kept and side not in one.unpaired
        },
    )
