"""From scores of turns to one score for each question, and what a metric can be broken down by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.metrics.base import Score
from fedllm_bench.metrics.stats import MEAN_OVER_CLIENTS, MEAN_OVER_TOKENS, Estimator

MEAN_OVER_QUESTIONS = replace(MEAN_OVER_CLIENTS, description="mean over questions")
# Each question weighs 1 / (questions of its language), see `weighted`.
MEAN_OVER_LANGUAGES = replace(MEAN_OVER_TOKENS, description="mean over languages of the mean over questions")
MOST_VALUES = 64  # of categories or languages; more of them break nothing down
MEAN = "mean"  # the view that stands for a metric


@dataclass(frozen=True, kw_only=True)
class View:
    """A metric over some of its scores (`keep`), one for each question."""

    name: str
    keep: Callable[[Score], bool]
    estimator: Estimator = MEAN_OVER_QUESTIONS

    def of(self, scores: Iterable[Score]) -> list[Score]:
        return per_question([score for score in scores if self.keep(score)])


def labelled(scores: Iterable[Score], prompts: Iterable[Prompt]) -> list[Score]:
    """Scores with their question as cluster and its category and language in `group`."""
    about = {prompt.item_id: {"category": prompt.category, "language": prompt.language} for prompt in prompts}
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
    values = [score.value for score in turns if score.value is not None]
    return Score(question, math.fsum(values) / len(values), cluster=question, group=group)


def weighted(scores: Sequence[Score]) -> list[Score]:
    """The scores with the weights that make every language count the same."""
    counts = Counter(score.group.get("language", "") for score in scores if score.is_scored)
    return [replace(s, weight=1 / counts[s.group.get("language", "")]) if s.is_scored else s for s in scores]


def views_of(scores: Sequence[Score], *, by_language: bool) -> list[View]:
    """The mean, then one view for each turn, category and language where there are several of them."""
    languages = _values(scores, "language")
    over_languages = by_language and len(languages) > 1
    views = [View(name=MEAN, keep=_any, estimator=MEAN_OVER_LANGUAGES if over_languages else MEAN_OVER_QUESTIONS)]
    views += [View(name="plain_mean", keep=_any)] if over_languages else []
    for key in ("turn", "category", "language"):
        values = _values(scores, key)
        if 1 < len(values) <= MOST_VALUES:
            views += [View(name=f"{key}_{value}", keep=_in(key, value)) for value in values]
    return views


def _values(scores: Iterable[Score], key: str) -> list[str]:
    """In the order of first occurrence, as a benchmark lists its categories; "" (unknown) is no value to show."""
    return [value for value in dict.fromkeys(score.group.get(key, "") for score in scores) if value]


def _any(_: Score) -> bool:
    return True


def _in(key: str, value: str) -> Callable[[Score], bool]:
    return lambda score: score.group.get(key) == value
