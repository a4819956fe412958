"""Reviews of pairs with a score for each answer, as the Vicuna blog's reviewer gives them: "8 9" on the first line.

Chiang et al., 2023 (the Vicuna blog): GPT-4 sees a question with two answers and is asked to "first output a single
line containing only two values indicating the scores for Assistant 1 and 2, respectively", on a scale of 1 to 10; the
scores of a model are summed over the 80 questions. A file has a JSON object a line with `question_id` and `text` (the
review); `model_1` and `model_2` name who answered, and a file that does not name them is of one pair of models. A first
line of anything else is unscored, with a reason, and never a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judging import score_pairing
from fedllm_bench.evaluation.judging.score_pairing import RATIO, Pair, ScoredPair, pair_scores
from fedllm_bench.evaluation.outside_files import name_value, parsed, text_of
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import Summary, paired_difference, per_cluster, summarise

FIRST, SECOND = "Assistant 1", "Assistant 2"
NAMES = (("model_1", "model_2"), ("model_a", "model_b"))
TEXTS = ("text", "content", "review")


@dataclass(frozen=True, kw_only=True)
class Review:
    """`scores` of the two models, by name; empty where the review has none, and `reason` says why."""

    question: str
    models: tuple[str, str]
    scores: Mapping[str, float]
    reason: str = ""


def read_reviews(path: Path) -> list[Review]:
    """Raises a :class:`UserError` of one line for what is no file of reviews."""
    lines = text_of(path, f"--reviews {path}").split("\n")
    found = [_review(line, f"--reviews {path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"--reviews {path}: there is no review in it")
    counts = Counter(review.question for review in found if review.models == (FIRST, SECOND))
    if twice := next((question for question, count in counts.items() if count > 1), None):
        raise UserError(f"--reviews {path}: question {twice!a} is reviewed {counts[twice]} times and nobody is named; "
                        "give model_1 and model_2, or a file for each two models")  # fmt: skip
    return found


def _review(line: str, where: str) -> Review:
    row = parsed(line, where, "give one JSON object a line")
    key = next((key for key in TEXTS if isinstance(row, dict) and isinstance(row.get(key), str)), None)
    question = row.get("question_id") if isinstance(row, dict) else None
    if key is None or isinstance(question, bool) or not isinstance(question, str | int):
        raise UserError(f"{where}: no review; it has question_id and {' or '.join(TEXTS)}")
    models = next((_names(row, keys, where) for keys in NAMES if keys[0] in row), (FIRST, SECOND))
    scores, reason = pair_scores(row[key])
    named = dict(zip(models, scores, strict=True)) if scores else {}
    return Review(question=str(question), models=models, scores=named, reason=reason)


def _names(row: Mapping[str, Any], keys: tuple[str, str], where: str) -> tuple[str, str]:
    try:
        first, second = (name_value(row.get(key), key) for key in keys)
    except ValueError as error:
        raise UserError(f"{where}: {error}; give two names") from None
    if first == second:
        raise UserError(f"{where}: {keys[0]} and {keys[1]} are both {ascii(first)[:80]}; give two names")
    return first, second


# --- sums


def totals_of(path: Path) -> dict[str, Any]:
    """For each two models the sums of their scores, and their difference, with 95% intervals over questions."""
    groups: dict[frozenset[str], list[Review]] = {}
    for review in read_reviews(path):
        groups.setdefault(frozenset(review.models), []).append(review)
    pairs = [_pair(reviews) for reviews in groups.values()]
    return {"judge_check_version": 1, "file": {"name": path.name, "sha256": files.sha256_file(path)}, "reviews": pairs}


def _pair(reviews: Sequence[Review]) -> dict[str, Any]:
    """A question with several reviews, as one in each order, counts once, with their mean."""
    models = reviews[0].models
    sides = {model: per_cluster(_scores(reviews, model)) for model in models}
    first, second = (sides[model] for model in models)
    return {
        "models": list(models),
        "reviews": len(reviews),
        "unscored": dict(Counter(review.reason for review in reviews if review.reason)),
        "totals": {model: _total(summarise(side)) for model, side in sides.items()},
        "difference": _total(paired_difference(first, second)),
        **_compared(_scored(reviews, models)),
    }


def _scored(reviews: Sequence[Review], models: tuple[str, str]) -> list[ScoredPair]:
    """For each question what was said where the first model came first, and where it came second."""
    found: dict[str, tuple[list[Pair], list[Pair]]] = {}
    for review in reviews:
        if review.scores:
            first, second = found.setdefault(review.question, ([], []))
            pair = (review.scores[models[0]], review.scores[models[1]])
            (first if review.models == models else second).append(pair)
    return [
        ScoredPair(prompt=Prompt(item_id=question, turns=("",)), first=tuple(first), second=tuple(second))
        for question, (first, second) in found.items()
    ]


def _compared(pairs: Sequence[ScoredPair]) -> dict[str, Any]:
    """The ratio of the sums in percent, and how often the first model is ahead: over questions."""
    both = [pair for pair in pairs if len(pair.first) == len(pair.second)]
    rates = {
        "both orders": score_pairing.wins(both),
        "shown first": score_pairing.wins_first(pair for pair in pairs if pair.first),
        "shown second": score_pairing.wins_second(pair for pair in pairs if pair.second),
    }
    ratio = summarise(per_cluster(score_pairing.ratio_scores(pairs)), estimator=RATIO)
    share = {name: summarise(per_cluster(scores), scale=(0.0, 1.0)) for name, scores in rates.items() if scores}
    return {"ratio_percent": ratio.to_dict(), "win_rates": {name: found.to_dict() for name, found in share.items()}}


def _scores(reviews: Iterable[Review], model: str) -> Iterator[Score]:
    for number, review in enumerate(reviews):
        yield Score(str(number), review.scores.get(model), review.reason, cluster=review.question)


def _total(summary: Summary) -> dict[str, Any]:
    """A mean over questions as the sum over them."""
    scored = {key: getattr(summary, key) for key in ("mean", "ci_low", "ci_high")}
    sums = {key: None if value is None else value * summary.n for key, value in scored.items()}
    return {"total": sums["mean"], "ci_low": sums["ci_low"], "ci_high": sums["ci_high"], "mean": summary.mean,
            "questions": summary.n, "interval": summary.interval}  # fmt: skip
