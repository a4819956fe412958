"""How near a written answer is to the right ones, as HELM counts (arXiv:2211.09110, appendix C). Each is 0 to 1."""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from fedllm_bench.evaluation.closed.tasks.columns import Row
from fedllm_bench.evaluation.metrics.references import tokens

ARTICLES = re.compile(r"\b(a|an|the)\b")
MARKS = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Small letters without punctuation, articles and double spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(MARKS)).split())


def quasi_exact(answer: str, right: str) -> float:
    return float(plain(answer) == plain(right))


def word_f1(answer: str, right: str) -> float:
    return _f1(plain(answer).split(), plain(right).split())


def rouge_2(answer: str, right: str) -> float:
    """F1 of pairs of neighbouring tokens (Lin, 2004)."""
    said, wanted = tokens(answer), tokens(right)
    return _f1(list(itertools.pairwise(said)), list(itertools.pairwise(wanted)))


def _f1(said: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def exact_scored(row: Row, results: Sequence[str]) -> dict[str, float]:
    return {"quasi_exact_match": _best(quasi_exact, row, results)}


def f1_scored(row: Row, results: Sequence[str]) -> dict[str, float]:
    return {"f1": _best(word_f1, row, results)}


def summary_scored(row: Row, results: Sequence[str]) -> dict[str, float]:
    return {"rouge2": _best(rouge_2, row, results)}


def _best(score: Callable[[str, str], float], row: Row, results: Sequence[str]) -> float:
    """Against the right answer that is nearest."""
    return max(score(results[0], right) for right in row["answers"])
