"""From scores of turns to one score for each question, and what a metric can be broken down by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedllm_bench.evaluation.metrics.scored_metric import ScoredMetric, SetValues
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.scores.estimators import MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, Estimator
from fedllm_bench.scores.score import Score

MEAN_OVER_QUESTIONS = replace(MEAN_OVER_CLIENTS, description="mean over questions")
# Each question weighs 1 / (questions of its language), see `weighted`.
MEAN_OVER_LANGUAGES = replace(MEAN_OVER_TOKENS, description="mean over languages of the mean over questions")
MEAN_OVER_BYTES = replace(MEAN_OVER_TOKENS, description="mean over bytes")
MOST_VALUES = 64  # of categories or languages; more of them break nothing down
MEAN = "mean"  # the view that stands for a metric


@dataclass(frozen=True, kw_only=True)
class QuestionView:
    """A metric over some of its scores (`keep`), one for each question; `values`: what its mean and interval are of."""

    name: str
    keep: Callable[[Score], bool]
    estimator: Estimator = MEAN_OVER_QUESTIONS
    values: SetValues | None = None

    def of(self, scores: Iterable[Score]) -> list[Score]:
        found = per_question([score for score in scores if self.keep(score)])
        return found if self.values is None else self.values(found)


def labelled(
    scores: Iterable[Score], prompts: Iterable[Prompt], clients: Mapping[str, str] | None = None
) -> list[Score]:
    """Scores with their question as cluster and its category, language and client (where known) in `group`."""
    about = {prompt.item_id: {"category": prompt.category, "language": prompt.language} for prompt in prompts}
    for item, client in (clients or {}).items():
        about.setdefault(item, {})["client"] = client
    clustered = [replace(score, cluster=score.cluster or score.item_id) for score in scores]
    return [replace(score, group={**about[score.cluster], **score.group}) for score in clustered]


def per_question(scores: Iterable[Score]) -> list[Score]:
    """The mean of each question's turns; unscored where one turn is, for which the other is no stand-in."""
    turns: dict[str, list[Score]] = {}
    for score in scores:
        turns.setdefault(score.cluster, []).append(score)
    return [_question(question, found) for question, found in turns.items()]


def _question(question: str, turns: Sequence[Score]) -> Score:
    hole = next((score for score in turns if not score.is_scored), None)
    group = {key: value for key, value in turns[0].group.items() if key != "turn"}
    if hole is not None:
        return Score(question, None, hole.reason or "nothing was counted", cluster=question, group=group)
    if len(turns) == 1:
        return replace(turns[0], item_id=question, cluster=question, group=group)
    values = [score.value for score in turns if score.value is not None]
    return Score(question, math.fsum(values) / len(values), cluster=question, group=group)


def pseudo_values(scores: Sequence[Score]) -> list[Score]:
    """Scores that are means over pairs of questions as values whose mean has an honest interval.

    A question is in its own score and in those of the others in its language, so the scores vary half as much as a
    new sample of questions would make their mean vary. Jackknife pseudo-values of a U-statistic of degree 2 (Arvesen,
    1969) over n questions are U + 2 (n - 1) / (n - 2) (score - U): their mean is U. The mean is kept in each language;
    languages with fewer than three questions are taken together, with the factor 2.
    """
    counts = Counter(_language(score) for score in scores if score.is_scored)
    strata: dict[str | None, list[float]] = {}
    for score in scores:
        if score.value is not None and score.is_scored:
            language = _language(score)
            strata.setdefault(language if counts[language] > 2 else None, []).append(score.value)
    about = {language: _mean_and_factor(language, values) for language, values in strata.items()}
    return [_moved(score, about) for score in scores]


def _mean_and_factor(language: str | None, values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    return math.fsum(values) / count, 2.0 if language is None else 2 * (count - 1) / (count - 2)


def _moved(score: Score, about: Mapping[str | None, tuple[float, float]]) -> Score:
    if score.value is None or not score.is_scored:
        return score
    mean, factor = about[_language(score) if _language(score) in about else None]
    return replace(score, value=mean + factor * (score.value - mean))


def _language(score: Score) -> str:
    return score.group.get("language", "")


def weighted(scores: Sequence[Score]) -> list[Score]:
    """The scores with the weights that make every language count the same."""
    counts = Counter(_language(score) for score in scores if score.is_scored)
    return [replace(s, weight=1 / counts[_language(s)]) if s.is_scored else s for s in scores]


def views_of(scores: Sequence[Score], metric: ScoredMetric) -> list[QuestionView]:
    """The mean, then one view for each turn, category, language and client where there are several of them.

    Pairs are of one language, so there is no plain mean of them.
    """
    over_languages = metric.by_language and len(_values(scores, "language")) > 1
    plain = metric.estimator or MEAN_OVER_QUESTIONS
    views = [QuestionView(name=MEAN, keep=_any, estimator=MEAN_OVER_LANGUAGES if over_languages else plain)]
    views += [QuestionView(name="plain_mean", keep=_any)] if over_languages and not metric.of_pairs else []
    for key in ("turn", "category", "language", "client"):
        values = sorted(_values(scores, key)) if key == "client" else _values(scores, key)
        if 1 < len(values) <= MOST_VALUES:
            views += [QuestionView(name=f"{key}_{value}", keep=_in(key, value), estimator=plain) for value in values]
    return [replace(view, values=values_of(metric)) for view in views]


def values_of(metric: ScoredMetric) -> SetValues | None:
    """What makes values with an honest interval from the scores of questions; None where these are such values."""
    return pseudo_values if metric.of_pairs else metric.of_set


def _values(scores: Iterable[Score], key: str) -> list[str]:
    """In the order of first occurrence, as a benchmark lists its categories; "" (unknown) is no value to show."""
    return [value for value in dict.fromkeys(score.group.get(key, "") for score in scores) if value]


def _any(_: Score) -> bool:
    return True


def _in(key: str, value: str) -> Callable[[Score], bool]:
    return lambda score: score.group.get(key) == value
