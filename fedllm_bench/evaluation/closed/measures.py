"""What can be measured in the items of a closed benchmark. To add a measure: a function of one sample, and a line.

Every value is computed again from what the model said: log-likelihoods, texts and whether programs passed their tests.
Values that follow from no such record (`as_given`) are lm-eval's own, and their description says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, Form
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark, MatchRule, closed_benchmarks
from fedllm_bench.evaluation.closed.set_scores import (
    COUNTS,
    RIGHT,
    SAID,
    bleu_counts,
    corpus_bleu,
    macro_f1,
    weighted_f1,
)
from fedllm_bench.evaluation.metrics.scored_metric import ScoredMetric, SetValues
from fedllm_bench.evaluation.scoring.views import MEAN_OVER_BYTES
from fedllm_bench.scores.estimators import Estimator
from fedllm_bench.scores.score import MetricInfo, Score

VERSION = "1"  # of all measures: it rises when equal samples could score otherwise
LONGEST = 100_000  # characters of a text that BLEU is computed of
CHOICES = re.compile(r"-?\d{1,9}|\[-?\d{1,9}(?:, -?\d{1,9})*\]", re.ASCII)  # the target of a choice
GIVEN = "as lm-eval computed it, which cannot be computed again from the record"


@dataclass(frozen=True, kw_only=True)
class ClosedMeasure:
    """`score` gives an item's value, its weight and what a measure of the whole set needs (`of_set`).

    `theirs`: names of lm-eval's values, of which the first that an item has must be equal.
    """

    name: str
    forms: tuple[Form, ...]
    description: str
    score: Callable[[ClosedSample], Score]
    unit: str = "share"
    high: float | None = 1.0
    higher_is_better: bool = True
    theirs: tuple[str, ...] = ()
    of_set: SetValues | None = None
    estimator: Estimator | None = None

    def of(self, sample: ClosedSample) -> Score:
        """The score of an item; unscored, with the reason, where it has no answer."""
        reason = sample.reason or ("" if sample.form in self.forms else f"{self.name} is not of the form {sample.form}")
        return Score(sample.item_id, None, reason) if reason else self.score(sample)

    def metric(self, benchmark: str, name: str) -> ScoredMetric:
        info = MetricInfo(
            name=name,
            version=VERSION,
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            description=self.description,
        )
        return ScoredMetric(
            info=info, benchmark=benchmark, low=0, high=self.high, of_set=self.of_set, estimator=self.estimator
        )


# --- choices: the answer is the choice with the highest log-likelihood, the first of equal ones


def _accuracy(sample: ClosedSample) -> Score:
    return _labelled(sample, str(_best(sample.log_likelihoods)))


def _accuracy_by_length(sample: ClosedSample) -> Score:
    each = zip(sample.log_likelihoods, sample.lengths, strict=True)
    return _labelled(sample, str(_best(total / max(length, 1) for total, length in each)))


def _labelled(sample: ClosedSample, said: str) -> Score:
    """A choice that is among the right ones; several right ones stand as a JSON list."""
    right = right_choices(sample)
    if not any(0 <= choice < len(sample.log_likelihoods) for choice in right):
        return Score(sample.item_id, None, "none of its choices is the right one")
    return Score(sample.item_id, float(int(said) in right), evidence={RIGHT: sample.target, SAID: said})


def right_choices(sample: ClosedSample) -> tuple[int, ...]:
    """The number that is the target, or those of a JSON list; () for anything else."""
    return tuple(map(int, sample.target.strip("[]").split(", "))) if CHOICES.fullmatch(sample.target) else ()


def _best(values: Iterable[float]) -> int:
    found = list(values)
    return found.index(max(found))


# --- texts: what the task's rule took out of the answer, against the right one


def _exact(rule: MatchRule, sample: ClosedSample) -> Score:
    """Both texts are made alike by the declared rule before they are compared."""
    right, said = (rule.normal(text) for text in (sample.target, sample.parsed[0]))
    return Score(sample.item_id, float(right == said), evidence={RIGHT: right, SAID: said})


def _label(sample: ClosedSample) -> Score:
    return _accuracy(sample) if sample.form == "choice" else _exact(MatchRule(), sample)


def by_rule(measure: ClosedMeasure, rule: MatchRule) -> ClosedMeasure:
    """A measure of texts, with the benchmark's rule."""
    theirs = () if rule.own else measure.theirs
    return replace(measure, theirs=theirs, score=lambda s: _accuracy(s) if s.form == "choice" else _exact(rule, s))


def _unparsable(sample: ClosedSample) -> Score:
    return Score(sample.item_id, float(not sample.parsed[0]))


def _bleu(sample: ClosedSample) -> Score:
    answer = sample.parsed[0]
    if max(len(answer), len(sample.target)) > LONGEST:
        return Score(sample.item_id, None, f"longer than {LONGEST} characters")
    counts = bleu_counts(answer, sample.target)
    return Score(sample.item_id, 0.0, evidence={COUNTS: counts})


# --- programs


def _pass_at(k: int, sample: ClosedSample) -> Score:
    """pass@k without bias (Chen et al., 2021, arXiv:2107.03374, equation 1): 1 - C(n - c, k) / C(n, k)."""
    n, passed = len(sample.passed), sum(sample.passed)
    if n < k:
        return Score(sample.item_id, None, f"{n} programs, and pass@{k} needs {k}")
    return Score(sample.item_id, 1.0 - math.comb(n - passed, k) / math.comb(n, k))


# --- running text


def _bits_per_byte(sample: ClosedSample) -> Score:
    num_bytes = sample.lengths[1]
    if not num_bytes:
        return Score(sample.item_id, None, "a text without a byte")
    bits = -sample.log_likelihoods[0] / math.log(2)
    return Score(sample.item_id, bits / num_bytes, weight=float(num_bytes))


def as_given(name: str, *, unit: str = "share", higher_is_better: bool = True) -> ClosedMeasure:
    """lm-eval's own value of this name; a share lies between 0 and 1, of another unit the ends are unknown."""
    high = 1.0 if unit == "share" else None

    def score(sample: ClosedSample) -> Score:
        value = sample.values.get(name)
        if value is None or value < 0 or (high is not None and value > high):
            return Score(sample.item_id, None, f"lm-eval gave {'no' if value is None else 'an impossible'} {name}")
        return Score(sample.item_id, value)

    return ClosedMeasure(
        name=name,
        forms=("choice", "text", "rolling", "code"),
        description=f"{name}, {GIVEN}",
        score=score,
        unit=unit,
        high=high,
        higher_is_better=higher_is_better,
    )


_ALL = (
    ClosedMeasure(
        name="acc",
        forms=("choice", "text"),
        description="share of items with the right answer: the choice of the highest log-likelihood, or what the task "
        "reads in a text",
        score=_label,
        theirs=("acc",),
    ),
    ClosedMeasure(
        name="acc_norm",
        forms=("choice",),
        description="likewise, by log-likelihood for each byte of the choice",
        score=_accuracy_by_length,
        theirs=("acc_bytes", "acc_norm"),
    ),
    ClosedMeasure(
        name="exact_match",
        forms=("text",),
        description="share of items whose answer, as the task reads it, is the right one",
        score=_label,
        theirs=("exact_match",),
    ),
    ClosedMeasure(
        name="macro_f1",
        forms=("choice", "text"),
        description="mean over labels of each label's F1",
        unit="F1",
        score=_label,
        of_set=macro_f1,
    ),
    ClosedMeasure(
        name="weighted_f1",
        forms=("choice", "text"),
        description="mean over the right labels of each label's F1, weighted by its items",
        unit="F1",
        score=_label,
        of_set=weighted_f1,
    ),
    ClosedMeasure(
        name="unparsable",
        forms=("text",),
        description="share of items in whose answer the task found nothing",
        higher_is_better=False,
        score=_unparsable,
        theirs=("unparsable",),
    ),
    ClosedMeasure(
        name="bleu",
        forms=("text",),
        description="BLEU of all answers together, by sacrebleu",
        unit="BLEU, 0 to 100",
        high=100.0,
        score=_bleu,
        of_set=corpus_bleu,
    ),
    *(
        ClosedMeasure(
            name=f"pass_{k}",
            forms=("code",),
            description=f"pass@{k}: the chance that one of {k} programs passes its tests",
            score=partial(_pass_at, k),
            theirs=(f"pass@{k}", f"pass_at_{k}"),
        )
        for k in (1, 10, 100)
    ),
    ClosedMeasure(
        name="bits_per_byte",
        forms=("rolling",),
        description="bits for each byte of the text",
        unit="bits per byte",
        high=None,
        higher_is_better=False,
        score=_bits_per_byte,
        estimator=MEAN_OVER_BYTES,
    ),
)
MEASURES: dict[str, ClosedMeasure] = {measure.name: measure for measure in _ALL}
OF_TEXTS = ("acc", "exact_match")  # of a text these hang on how the task compares, which `match` declares
OF_FORM: dict[Form, str] = {"choice": "acc", "text": "exact_match", "code": "pass_1", "rolling": "bits_per_byte"}


def measures_of(benchmark: str, form: Form) -> dict[str, ClosedMeasure]:
    """Name in evaluation.json -> what it measures. The first is the benchmark's own score, and has its name.

    `form` is that of the samples, from which it follows where nothing of this name is declared.
    """
    about = closed_benchmarks().get(benchmark)
    if about is None:
        return {benchmark: MEASURES[OF_FORM[form]]}
    return {
        benchmark: _measure(about.metric, about),
        **{name: _measure(key, about) for name, key in about.also.items()},
    }


def _measure(key: str, about: ClosedBenchmark) -> ClosedMeasure:
    """By lm-eval's name of a value, or by ours; behind another filter nothing but lm-eval's value is known."""
    found = MEASURES.get(key.replace("@", "_"))
    if found is None or (found.name in OF_TEXTS and about.form == "text" and about.match is None):
        if key == about.metric:
            return as_given(key, unit=about.unit, higher_is_better=about.higher_is_better)
        alike = MEASURES.get(key.partition(",")[0])  # behind another filter
        return as_given(key, higher_is_better=alike is None or alike.higher_is_better)
    return by_rule(found, about.match) if about.match is not None and found.score is _label else found
