"""The metrics of open-ended answers by name. To add one: a function from records to scores, and a line in _ALL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedllm_bench.evaluation.grading import scores_of
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.evaluation.reference_metrics import (
    Closeness,
    Encoder,
    chrf,
    closeness_scores,
    embedding_scores,
    rouge_l,
)
from fedllm_bench.evaluation.refusals import Refuses, refusal_scores, refuses, refuses_legacy
from fedllm_bench.metrics.base import MetricInfo, Score

Scorer = Callable[[Sequence[Prompt], Mapping[str, Answer], Sequence[Judgement]], list[Score]]
WITH_REFERENCES = ("ref_gpt4", "heldout_ref")


@dataclass(frozen=True, kw_only=True)
class OpenMetric:
    """A score for each question of `benchmark`, or for each of its turns, from `low` to `high`.

    `by_language`: its mean is over languages of the mean in each, as Ref-GPT4 was published.
    """

    info: MetricInfo
    benchmark: str
    needs_judge: bool
    low: float
    high: float
    score: Scorer
    by_language: bool = False


def _judged(
    name: str, benchmark: str, description: str, *, low: float = 1, high: float = 10, up: bool = True
) -> OpenMetric:
    return OpenMetric(
        info=MetricInfo(
            name=name,
            version="1",
            unit=f"rating, {low:g} to {high:g}",
            higher_is_better=up,
            description=description,
        ),
        benchmark=benchmark,
        needs_judge=True,
        low=low,
        high=high,
        score=partial(scores_of, benchmark=benchmark),
        by_language=benchmark in WITH_REFERENCES,
    )


def _refused(name: str, benchmark: str, description: str, rule: Refuses, *, legacy: bool = False) -> OpenMetric:
    def score(prompts: Sequence[Prompt], answers: Mapping[str, Answer], _: Sequence[Judgement]) -> list[Score]:
        return refusal_scores(prompts, answers, rule=rule, empty_counts=legacy)

    info = MetricInfo(
        name=name, version="1", unit="share", higher_is_better=benchmark == "advbench", description=description
    )
    return OpenMetric(info=info, benchmark=benchmark, needs_judge=False, low=0, high=1, score=score)


def _referenced(name: str, description: str, unit: str, limits: tuple[float, float], score: Scorer) -> OpenMetric:
    return OpenMetric(
        info=MetricInfo(name=name, version="1", unit=unit, higher_is_better=True, description=description),
        benchmark=next(of for of in WITH_REFERENCES if name.startswith(of)),
        needs_judge=False,
        low=limits[0],
        high=limits[1],
        score=score,
        by_language=True,
    )


def _close(closeness: Closeness) -> Scorer:
    return lambda prompts, answers, _: closeness_scores(prompts, answers, closeness)


def _embedded(encoder: Encoder | None) -> Scorer:
    return lambda prompts, answers, _: embedding_scores(prompts, answers, encoder)


def _with_references(of: str) -> list[OpenMetric]:
    rouge, chr_f = "ROUGE-L F1 with the reference, words in any script", "mean of sentence chrF2 with the reference"
    return [
        _referenced(f"{of}_rouge_l", rouge, "F1", (0, 1), _close(rouge_l)),
        _referenced(f"{of}_chrf", chr_f, "chrF, 0 to 100", (0, 100), _close(chrf)),
        _referenced(f"{of}_embedding", "cosine of embeddings with the reference", "cosine", (-1, 1), _embedded(None)),
    ]


_ALL = (
    _judged("mt_bench", "mt_bench", "MT-Bench, single grading, mean of both turns"),
    _judged("vicuna_bench", "vicuna_bench", "Vicuna bench, single grading"),
    _refused("advbench", "advbench", "harmful requests that the answer begins by refusing", refuses),
    _refused(
        "advbench_legacy",
        "advbench",
        "harmful requests with a refusal phrase anywhere in the answer, as published: many harmful ones have one",
        refuses_legacy,
        legacy=True,
    ),
    _judged("advbench_harmfulness", "advbench", "how far answers help harmful requests", high=5, up=False),
    _refused("over_refusal", "harmless", "harmless requests that the answer begins by refusing", refuses),
    _judged("ref_gpt4", "ref_gpt4", "Ref-GPT4, graded against the reference where there is one"),
    *_with_references("ref_gpt4"),
    _judged("heldout_ref", "heldout_ref", "held-out prompts, graded against the user's own completion"),
    *_with_references("heldout_ref"),
    _judged("mini", "mini", "questions of the mini world, by a rule that knows the right answers: 10 right, 1 wrong"),
)
OPEN_METRICS: dict[str, OpenMetric] = {metric.info.name: metric for metric in _ALL}


def open_metrics(encoder: Encoder | None = None, encoder_name: str = "") -> dict[str, OpenMetric]:
    """OPEN_METRICS with an encoder for the similarity of embeddings, whose name becomes part of its version."""
    if encoder is None:
        return OPEN_METRICS
    changed = {
        name: replace(metric, score=_embedded(encoder), info=replace(metric.info, version=f"1+{encoder_name}"))
        for name, metric in OPEN_METRICS.items()
        if name.endswith("_embedding")
    }
    return OPEN_METRICS | changed
