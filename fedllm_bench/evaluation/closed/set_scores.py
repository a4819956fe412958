"""Scores of a whole set of items, macro-F1 and corpus BLEU, as one value for each item, whose mean is the set's score.

The values are jackknife pseudo-values (Efron and Stein, 1981, The jackknife estimate of variance): n T - (n - 1) T_i,
where T_i is the score without item i. They are moved so that their mean is T itself, and they vary as T would over
other items. So intervals and paired differences are made of them as of the scores of single items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.scores.score import Score

RIGHT, SAID = "right", "said"  # evidence of an item with a label: the right one, and that of the answer ("" for none)
COUNTS = "bleu"  # evidence of an item with BLEU: lengths of answer and reference, then n-grams that fit, then all
ORDERS = 4  # of n-grams
Doubles = NDArray[np.float64]
# from the counts of a label (right and said, right, said) to its F1 times its weight, and its weight
LabelShare = Callable[[int, int, int], tuple[float, float]]

# N items, L labels


def macro_f1(scores: Sequence[Score]) -> list[Score]:
    """The mean over labels of F1 = 2 TP / (said + right), as scikit-learn's.

    The labels are those that are right or said somewhere. "", no label found, is wrong and no label of its own.
    """
    return _moved(scores, partial(_without_each_f1, share=_of_label))


def weighted_f1(scores: Sequence[Score]) -> list[Score]:
    """As :func:`macro_f1`, where a label counts as many times as it is right."""
    return _moved(scores, partial(_without_each_f1, share=_of_items))


def corpus_bleu(scores: Sequence[Score]) -> list[Score]:
    """BLEU of all answers together (Papineni et al., 2002), as sacrebleu's `corpus_score` gives it, 0 to 100."""
    return _moved(scores, _without_each_bleu)


def _moved(scores: Sequence[Score], of: Callable[[Sequence[Score]], tuple[float, Doubles]]) -> list[Score]:
    """The scored items with pseudo-values; the others as they are."""
    counted = [score for score in scores if score.is_scored]
    if not counted:
        return list(scores)
    whole, without = of(counted)
    values = iter(_pseudo_values(whole, without))
    return [replace(score, value=float(next(values))) if score.is_scored else score for score in scores]


def _pseudo_values(whole: float, without: Doubles) -> Doubles:
    n = len(without)
    if n < 2:
        return np.full(n, whole)
    return np.asarray(whole + (n - 1) * (without.mean() - without))


def _without_each_f1(scores: Sequence[Score], share: LabelShare) -> tuple[float, Doubles]:
    """F1 of all, and without each item, shape (N,). An item changes two labels at most, so this takes O(N + L)."""
    pairs = [(str(score.evidence[RIGHT]), str(score.evidence[SAID])) for score in scores]
    right, said = (Counter(labels) for labels in zip(*pairs, strict=True))
    both = Counter(one for one, other in pairs if one == other)
    shares = {label: share(both[label], right[label], said[label]) for label in right | said if label}
    total, weight = (float(sum(values)) for values in zip((0.0, 0.0), *shares.values(), strict=True))

    def without(one: str, other: str) -> float:
        value, of_all = total, weight
        for label in filter(None, dict.fromkeys((one, other))):  # in order, so that sums are equal in every process
            less = (one == other, one == label, other == label)
            counts = (count[label] - by for count, by in zip((both, right, said), less, strict=True))
            changed = share(*counts)
            value, of_all = value + changed[0] - shares[label][0], of_all + changed[1] - shares[label][1]
        return value / of_all if of_all else 0.0

    left_out = {pair: without(*pair) for pair in dict.fromkeys(pairs)}
    return total / weight if weight else 0.0, np.asarray([left_out[pair] for pair in pairs])


def _of_label(both: int, right: int, said: int) -> tuple[float, float]:
    """F1 of a label, and its weight: one that is neither right nor said is none. The left out item may be its last."""
    return (2 * both / (right + said), 1.0) if right + said else (0.0, 0.0)


def _of_items(both: int, right: int, said: int) -> tuple[float, float]:
    value, _ = _of_label(both, right, said)
    return value * right, right


def bleu_counts(answer: str, reference: str) -> list[int]:
    """What BLEU adds up over items, as sacrebleu counts it (its tokenizer 13a, n-grams up to ORDERS)."""
    from sacrebleu.metrics import BLEU

    found = BLEU(max_ngram_order=ORDERS).corpus_score([answer], [[reference]])
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def _without_each_bleu(scores: Sequence[Score]) -> tuple[float, Doubles]:
    counts = np.asarray([score.evidence[COUNTS] for score in scores], dtype=np.int64)
    whole = counts.sum(axis=0)
    return _bleu(whole), np.asarray([_bleu(whole - each) for each in counts])


def _bleu(counts: NDArray[np.int64]) -> float:
    """From the sums of :func:`bleu_counts`. No n-gram at all, as without any item, is 0."""
    from sacrebleu.metrics import BLEU

    said, asked, *grams = (int(count) for count in counts)
    found = BLEU.compute_bleu(grams[:ORDERS], grams[ORDERS:], said, asked, smooth_method="exp", max_ngram_order=ORDERS)
    return float(found.score)
