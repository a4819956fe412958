"""Scores of whole sets: equal to scikit-learn's and sacrebleu's, with intervals as wide as other samples make them."""

from __future__ import annotations

import time

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import f1_score

from fedllm_bench.evaluation.closed.set_scores import (
    COUNTS,
    RIGHT,
    SAID,
    bleu_counts,
    corpus_bleu,
    macro_f1,
    weighted_f1,
)
from fedllm_bench.scores.score import Score

ANSWERS = ["the cat sat on mat", "a dog", "print(x) + 1", "", "the the of it", "x = sorted(values, key=len)"]
RIGHTS = ["the cat sat on the mat", "a dog ran home", "print(x)", "hello you", "the end of it", "x = sorted(values)"]


def labels(n: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    right = rng.choice(["no", "yes", "maybe"], n, p=[0.5, 0.3, 0.2])
    said = np.where(rng.random(n) < 0.7, right, rng.choice(["no", "yes", "maybe"], n))
    return [(str(a), str(b)) for a, b in zip(right, said, strict=True)]


def labelled(pairs: list[tuple[str, str]]) -> list[Score]:
    return [Score(str(i), 0.0, evidence={RIGHT: a, SAID: b}) for i, (a, b) in enumerate(pairs)]


def written(answers: list[str], rights: list[str]) -> list[Score]:
    pairs = zip(answers, rights, strict=True)
    return [Score(str(i), 0.0, evidence={COUNTS: bleu_counts(a, b)}) for i, (a, b) in enumerate(pairs)]


def mean(scores: list[Score]) -> float:
    return float(np.mean([score.value for score in scores]))


@pytest.mark.parametrize(("of_set", "average"), [(macro_f1, "macro"), (weighted_f1, "weighted")])
def test_f1_is_that_of_scikit_learn(of_set, average):
    pairs = labels(80)
    right, said = zip(*pairs, strict=True)
    assert mean(of_set(labelled(pairs))) == pytest.approx(f1_score(right, said, average=average), abs=1e-12)


def test_no_label_is_wrong_and_no_label_of_its_own():
    found = mean(macro_f1(labelled([("yes", "yes"), ("yes", ""), ("no", "no"), ("no", "no")])))
    assert found == pytest.approx((2 / 3 + 1) / 2)


def test_bleu_is_that_of_sacrebleu():
    found = mean(corpus_bleu(written(ANSWERS, RIGHTS)))
    assert found == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, [RIGHTS]).score, abs=1e-9)


def test_the_values_vary_as_the_score_of_other_samples_does():
    """The standard error from one sample of items against the spread of the score over 400 samples."""
    found = [macro_f1(labelled(labels(150, seed))) for seed in range(400)]
    spread = np.std([mean(scores) for scores in found])
    errors = [np.std([score.value for score in scores], ddof=1) / np.sqrt(len(scores)) for scores in found]
    assert np.mean(errors) == pytest.approx(spread, rel=0.1)


def test_each_value_follows_from_leaving_the_item_out():
    pairs = labels(12)
    whole = f1_score(*zip(*pairs, strict=True), average="macro")
    without = [f1_score(*zip(*(pairs[:i] + pairs[i + 1 :]), strict=True), average="macro") for i in range(12)]
    values = [score.value for score in macro_f1(labelled(pairs))]
    assert values == pytest.approx(whole + 11 * (np.mean(without) - np.array(without)))


def test_as_many_labels_as_items_take_no_longer():
    pairs = [(f"right {i}", f"said {i}") for i in range(20_000)]
    started = time.process_time()
    assert mean(macro_f1(labelled([("yes", "yes"), *pairs]))) == pytest.approx(1 / 40_001)
    assert time.process_time() - started < 5  # each item over all labels would take a minute


@pytest.mark.parametrize("of_set", [macro_f1, corpus_bleu])
def test_few_items_and_unscored_ones_stay_as_they_are(of_set):
    hole = Score("x", None, "no answer")
    assert of_set([]) == []
    assert of_set([hole]) == [hole]
    one = {RIGHT: "a", SAID: "a", COUNTS: bleu_counts("a b c d e", "a b c d e")}
    found = of_set([hole, Score("y", 0.0, evidence=one)])
    assert [score.value for score in found] == [None, pytest.approx(100.0 if of_set is corpus_bleu else 1.0)]
