"""Two scores for each pair of answers, as the Vicuna blog's reviewer gives them: sums, their ratio, and who is ahead.

Chiang et al., 2023 (the Vicuna blog): GPT-4 sees a question with two answers and begins with "a single line containing
only two values", the scores of Assistant 1 and 2 from 1 to 10; the scores of a model are summed over the 80 questions,
and the sums are compared in percent. The blog showed each pair once. Here both orders are asked, and a question's score
is the mean over them, because such a judge may prefer a place (Wang et al., 2023, arXiv:2305.17926).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedllm_bench.evaluation.judges.finishes import ending
from fedllm_bench.evaluation.judging.grading import turn_score, unfinished
from fedllm_bench.evaluation.records import Judgement, Order, Prompt, Reply
from fedllm_bench.evaluation.thoughts import said
from fedllm_bench.scores.estimators import MEAN_OVER_TOKENS
from fedllm_bench.scores.score import Score

LOW, HIGH = 1.0, 10.0
NUMBER = r"(\d{1,3}(?:[.,]\d{1,3})?)"
TWO = re.compile(rf"[\s*_`]*{NUMBER}(?:\s*[,;]\s*|\s+){NUMBER}[\s*_`.]*")
RATIO = replace(MEAN_OVER_TOKENS, description="ratio of the sums over questions")  # each weighs the other's score
LOWEST_RATIO, HIGHEST_RATIO = 100 * LOW / HIGH, 100 * HIGH / LOW
Pair = tuple[float, float]  # the scores of the side itself and of the other one


@dataclass(frozen=True, kw_only=True)
class ScoredPair:
    """The scores of one question: `first` where the side's own answer was shown first, `second` where it came second.

    Both are empty where a reply has no scores, and `reason` says why.
    """

    prompt: Prompt
    first: tuple[Pair, ...] = ()
    second: tuple[Pair, ...] = ()
    reason: str = ""

    @property
    def own(self) -> float:
        return _mean([own for own, _ in (*self.first, *self.second)])

    @property
    def other(self) -> float:
        return _mean([other for _, other in (*self.first, *self.second)])


def pair_scores(text: str) -> tuple[Pair | None, str]:
    """The two scores of a review, or None and the reason."""
    line = next((line for line in unicodedata.normalize("NFKC", text).splitlines() if line.strip()), "")
    found = TWO.fullmatch(line)
    if found is None:
        return None, "the first line is not two scores" if line else "the review is empty"
    first, second = (float(number.replace(",", ".")) for number in found.groups())
    if not (LOW <= first <= HIGH and LOW <= second <= HIGH):
        return None, f"a score is not from {LOW:g} to {HIGH:g}"
    return (first, second), ""


def reply_scores(reply: Reply) -> tuple[Pair | None, str]:
    """As :func:`pair_scores`, of a reply without its thoughts. One that was cut behind its first line has scores."""
    told, kind = said(reply.text), ending(reply.finish)
    is_first_line_whole = kind == "whole" or (kind == "cut" and "\n" in told.text.strip())
    if not is_first_line_whole:
        return None, unfinished(reply)
    return pair_scores(told.text)


def scored_pairs(prompts: Sequence[Prompt], judgements: Iterable[Judgement]) -> list[ScoredPair]:
    """One for each prompt, from the judgements of its first turn in both orders."""
    by_item: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.order and judgement.turn == 1:
            by_item.setdefault(judgement.item_id, []).append(judgement)
    repeats = 1 + max((one.repeat for own in by_item.values() for one in own), default=0)
    return [_scored(prompt, by_item.get(prompt.item_id, []), repeats) for prompt in prompts]


def _scored(prompt: Prompt, own: Sequence[Judgement], repeats: int) -> ScoredPair:
    if not own:
        return ScoredPair(prompt=prompt, reason="no judge")
    by_place = {(one.order, one.repeat): one for one in own}
    orders: tuple[Order, ...] = ("ab", "ba")
    read = {(order, n): _read(by_place.get((order, n))) for order in orders for n in range(repeats)}
    if reason := next((why for scores, why in read.values() if scores is None), ""):
        return ScoredPair(prompt=prompt, reason=reason)
    found = {place: scores for place, (scores, _) in read.items() if scores is not None}
    return ScoredPair(
        prompt=prompt,
        first=tuple(found["ab", n] for n in range(repeats)),
        second=tuple((found["ba", n][1], found["ba", n][0]) for n in range(repeats)),
    )


def _read(judgement: Judgement | None) -> tuple[Pair | None, str]:
    if judgement is None:
        return None, "a judgement of one order is missing"
    if judgement.reply is None:
        return None, judgement.reason or "no reply"
    return reply_scores(judgement.reply)


# --- what is made of them: a score for each question


def own_scores(pairs: Iterable[ScoredPair]) -> list[Score]:
    return [_score(pair, lambda pair: pair.own) for pair in pairs]


def other_scores(pairs: Iterable[ScoredPair]) -> list[Score]:
    return [_score(pair, lambda pair: pair.other) for pair in pairs]


def ratio_scores(pairs: Iterable[ScoredPair]) -> list[Score]:
    """In percent. Their mean, weighted by the other's scores, is the ratio of the sums: :data:`RATIO` is for it."""
    return [_score(pair, lambda pair: 100 * pair.own / pair.other, weight=_weight(pair)) for pair in pairs]


def wins(pairs: Iterable[ScoredPair]) -> list[Score]:
    """1 where the side's own answer has the higher score in both orders, 0 where the other has, else 0.5."""
    return [_score(pair, _wins) for pair in pairs]


def wins_first(pairs: Iterable[ScoredPair]) -> list[Score]:
    """1, 0, or 0.5 for equal scores, where the side's own answer was shown first."""
    return [_score(pair, lambda pair: _mean([_point(one) for one in pair.first])) for pair in pairs]


def wins_second(pairs: Iterable[ScoredPair]) -> list[Score]:
    return [_score(pair, lambda pair: _mean([_point(one) for one in pair.second])) for pair in pairs]


def tally(pairs: Iterable[ScoredPair]) -> Mapping[str, int]:
    """How many pairs (a question, a repeat) are won in both orders, lost in both, or neither."""
    points = [(_point(a), _point(b)) for pair in pairs for a, b in zip(pair.first, pair.second, strict=True)]
    return {
        "wins": points.count((1.0, 1.0)),
        "ties": len(points) - points.count((1.0, 1.0)) - points.count((0.0, 0.0)),
        "losses": points.count((0.0, 0.0)),
        "consistent": sum(a == b for a, b in points),
    }


def _score(pair: ScoredPair, value: Callable[[ScoredPair], float], weight: float = 1.0) -> Score:
    found = turn_score(pair.prompt, 1, None if pair.reason else value(pair), pair.reason, {})
    return replace(found, item_id=pair.prompt.item_id, weight=weight)


def _weight(pair: ScoredPair) -> float:
    return 1.0 if pair.reason else pair.other


def _wins(pair: ScoredPair) -> float:
    """Over repeats."""
    both = [(_point(a), _point(b)) for a, b in zip(pair.first, pair.second, strict=True)]
    return _mean([a if a == b else 0.5 for a, b in both])


def _point(pair: Pair) -> float:
    own, other = pair
    return 0.5 if own == other else float(own > other)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
