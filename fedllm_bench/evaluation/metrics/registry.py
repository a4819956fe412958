"""The metrics of open-ended answers by name. To add one: a function from records to scores, and a line in _ALL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedllm_bench.evaluation.judging.grading import scores_of
from fedllm_bench.evaluation.metrics.answer_diversity import (
    Among,
    among_scores,
    between_scores,
    distinct,
    self_bleu,
    spread,
    unscored,
)
from fedllm_bench.evaluation.metrics.own_user import Owners, own_rows_scores
from fedllm_bench.evaluation.metrics.references import (
    NO_MODEL,
    Closeness,
    Encoder,
    closeness_scores,
    embedding_scores,
    rouge_l,
)
from fedllm_bench.evaluation.metrics.refusals import Refuses, refusal_scores, refuses, refuses_legacy
from fedllm_bench.evaluation.metrics.scored_metric import ScoredMetric
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.metrics.chrf import chrf
from fedllm_bench.metrics.plugin_errors import errors_of_metric
from fedllm_bench.scores.checked import scores_of_questions, wrong
from fedllm_bench.scores.score import CHRF, MetricInfo, Score

Scorer = Callable[[Sequence[Prompt], Mapping[str, Answer], Sequence[Judgement]], list[Score]]
Across = Callable[[Sequence[Prompt], Mapping[str, Mapping[str, Answer]]], dict[str, list[Score]]]
WITH_REFERENCES = ("ref_gpt4", "heldout_ref")
VERSION = "2"  # of all of them: since 2 thoughts are not part of an answer, and verdicts and refusals are read anew
DIVERSE = (*WITH_REFERENCES, "mini")  # what users ask, by language: there it can be seen how alike answers are


@dataclass(frozen=True, kw_only=True)
class OpenMetric(ScoredMetric):
    """A metric of open-ended answers. `across`: scores of all sides at once, in place of `score`."""

    score: Scorer
    across: Across | None = None


def _judged(
    name: str, benchmark: str, description: str, *, low: float = 1, high: float = 10, up: bool = True
) -> OpenMetric:
    return OpenMetric(
        info=MetricInfo(
            name=name,
            version=VERSION,
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
        name=name, version=VERSION, unit="share", higher_is_better=benchmark == "advbench", description=description
    )
    return OpenMetric(info=info, benchmark=benchmark, needs_judge=False, low=0, high=1, score=score)


def _referenced(name: str, description: str, unit: str, limits: tuple[float, float], score: Scorer) -> OpenMetric:
    return OpenMetric(
        info=MetricInfo(name=name, version=VERSION, unit=unit, higher_is_better=True, description=description),
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
        _referenced(f"{of}_chrf", chr_f, CHRF, (0, 100), _close(chrf)),
        _referenced(f"{of}_embedding", "cosine of embeddings with the reference", "cosine", (-1, 1), _embedded(None)),
    ]


def _alike(name: str, description: str, unit: str, limits: tuple[float, float], score: Scorer) -> OpenMetric:
    """How unlike answers are: `higher_is_better` says which way is more diverse, and no more than that."""
    info = MetricInfo(
        name=name,
        version=VERSION,
        unit=unit,
        higher_is_better=not name.endswith("_self_bleu"),
        description=description,
    )
    return OpenMetric(
        info=info,
        benchmark=next(of for of in DIVERSE if name.startswith(of)),
        needs_judge=False,
        low=limits[0],
        high=limits[1],
        score=score,
        by_language=True,
        of_pairs=True,
    )


def _among(measure: Among) -> Scorer:
    return lambda prompts, answers, _: among_scores(prompts, answers, measure)


def _spread(encoder: Encoder | None) -> Scorer:
    return lambda prompts, answers, _: (
        unscored(prompts, NO_MODEL) if encoder is None else among_scores(prompts, answers, spread(encoder))
    )


def _own_rows(owners: Owners | None, encoder: Encoder | None) -> Scorer:
    return lambda prompts, answers, _: own_rows_scores(prompts, answers, owners, encoder)


def _between(of: str) -> OpenMetric:
    about = "how unlike clients' own adapters answer one prompt: 1 - ROUGE-L with another client's answer"
    found = _alike(f"{of}_between_clients", about, "1 - F1", (0, 1), lambda *_: [])
    return replace(found, of_pairs=False, across=between_scores)


def _diverse(of: str) -> list[OpenMetric]:
    two = "distinct word pairs of two answers to different questions of one language, over all their word pairs"
    bleu = "BLEU of an answer against one to another question of its language: high where all answers are alike"
    apart = "1 - cosine of embeddings of two answers to different questions of one language"
    own = "cosine of embeddings with the user's own training rows minus that with other users' in the same language"
    found = [_alike(f"{of}_distinct_2", two, "share of n-grams", (0, 1), _among(distinct(2)))]
    if of in WITH_REFERENCES:  # answers of the mini world are a word or two
        found.append(_alike(f"{of}_self_bleu", bleu, "BLEU, 0 to 100", (0, 100), _among(self_bleu)))
        found.append(_alike(f"{of}_spread", apart, "1 - cosine", (0, 2), _spread(None)))
    if of == "heldout_ref":
        nearer = _alike(f"{of}_own_rows", own, "difference of cosines", (-2, 2), _own_rows(None, None))
        found.append(replace(nearer, of_pairs=False))
    return [*found, _between(of)]


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
    *_diverse("ref_gpt4"),
    *_diverse("heldout_ref"),
    _judged("mini", "mini", "questions of the mini world, by a rule that knows the right answers: 10 right, 1 wrong"),
    *_diverse("mini"),
)


def of_plugin(metric: OpenMetric, info: MetricInfo, path: str) -> OpenMetric:
    """A metric of the plugin in the file `path`, which the version in `info` names; its scores are looked at."""

    def score(prompts: Sequence[Prompt], answers: Mapping[str, Answer], judgements: Sequence[Judgement]) -> list[Score]:
        with errors_of_metric(info, path):
            found = metric.score(prompts, answers, judgements)
        return scores_of_questions(found, info, _turns(prompts))

    across = None if metric.across is None else _across_of_plugin(metric.across, info, path)
    return replace(metric, info=info, score=score, across=across)


def _across_of_plugin(across: Across, info: MetricInfo, path: str) -> Across:
    def checked(prompts: Sequence[Prompt], answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, list[Score]]:
        with errors_of_metric(info, path):
            found = across(prompts, answers)
        if not isinstance(found, dict) or found.keys() - answers.keys():
            raise wrong(info, "should give a dict from sides, of those in `answers`, to lists of Score")
        return {side: scores_of_questions(scores, info, _turns(prompts)) for side, scores in found.items()}

    return checked


def _turns(prompts: Sequence[Prompt]) -> dict[str, int]:
    return {prompt.item_id: len(prompt.turns) for prompt in prompts}


OPEN_METRICS: dict[str, OpenMetric] = {metric.info.name: metric for metric in _ALL}


def open_metrics(
    encoder: Encoder | None = None, encoder_name: str = "", owners: Owners | None = None
) -> dict[str, OpenMetric]:
    """OPEN_METRICS with an encoder, whose name becomes part of the version of each metric that asks it.

    `owners` are of the run's split; without them nothing is said of the clients' own rows.
    """
    if encoder is None:
        return OPEN_METRICS
    scorers = {"_embedding": _embedded(encoder), "_spread": _spread(encoder), "_own_rows": _own_rows(owners, encoder)}
    changed = {
        name: replace(metric, score=scorer, info=replace(metric.info, version=f"{VERSION}+{encoder_name}"))
        for name, metric in OPEN_METRICS.items()
        for ending, scorer in scorers.items()
        if name.endswith(ending)
    }
    return OPEN_METRICS | changed
