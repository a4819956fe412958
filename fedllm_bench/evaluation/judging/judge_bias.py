"""What else than quality moves a judge: the place of an answer, its length, chance. Intervals are over questions.

Position (Zheng et al., 2023, arXiv:2306.05685, section 3.3 and Table 2): each match is judged in both orders.
    consistency   share of matches in which the same is found in both orders
    first         share in which both orders name the answer that was shown first; `second` likewise
    first_share   of all verdicts for one of the two answers, the share for the one shown first; 1/2 without bias
Length: the characters of the answer in the turn that is judged. Only matches that the judge decided, of unequal length.
    longer_at_tie  where the experts' majority is a tie, the share decided for the longer answer; 1/2 without bias
    length_gap     how much more often the judge decides against the experts' majority where they prefer the shorter
                   answer than where they prefer the longer one; 0 without bias, 1 for a judge of length alone
                   (a difference of error rates, after Saito et al., 2023, arXiv:2310.10076)
Chance: `self_consistency` is the share of two repeats of one request in which the same is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from fedllm_bench.evaluation.judging.agreement import covered, share_of
from fedllm_bench.evaluation.judging.pair_decisions import Decision, Said
from fedllm_bench.evaluation.judging.votes import JudgeVote, Match, Winner, by_match, majority
from fedllm_bench.scores.estimators import Estimator
from fedllm_bench.scores.intervals import Array
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import ClusterMean, Summary, summarise

Lengths = Callable[[Match], tuple[int, int]]  # of model_a's and of model_b's answer


def position_bias(decisions: Sequence[Decision]) -> dict[str, Summary]:
    shares: dict[str, Callable[[Decision], bool | None]] = {
        "consistency": lambda decision: decision.is_consistent,
        "first": lambda decision: _both(decision, "first"),
        "second": lambda decision: _both(decision, "second"),
    }
    found = {name: share_of([_score(d, is_so(d)) for d in decisions]) for name, is_so in shares.items()}
    places = [(decision, said) for decision in decisions for said in decision.said if said != "tie"]
    first = [_score(decision, None if said is None else said == "first") for decision, said in places]
    return {name: covered(summary) for name, summary in (found | {"first_share": share_of(first)}).items()}


def _both(decision: Decision, said: Said) -> bool | None:
    return None if decision.winner is None else decision.said == (said, said)


def _score(decision: Decision, value: bool | None) -> Score:
    name = f"{decision.match} {decision.repeat}"
    known = None if value is None else float(value)
    return Score(name, known, decision.reason or "no verdict" if value is None else "", cluster=decision.match.question)


def length_bias(votes: Iterable[JudgeVote], experts: Iterable[JudgeVote], lengths: Lengths) -> dict[str, Summary]:
    """Of a judge's `votes`, on matches that experts voted on; what has no winner, or a tie, says nothing of length."""
    preferred = {match: majority(own) for match, own in by_match(experts).items()}
    longer = {match: _longer(lengths(match)) for match in preferred}
    decided = [v for v in votes if v.winner in ("a", "b") and longer.get(v.match) in ("a", "b")]
    at_tie = [v for v in decided if preferred[v.match] == "tie"]
    scores = [
        Score(f"{v.match} {number}", float(v.winner == longer[v.match]), cluster=v.match.question)
        for number, v in enumerate(at_tie)
    ]
    errors = [(v.match.question, preferred[v.match] == longer[v.match], v.winner != preferred[v.match])
              for v in decided if preferred[v.match] != "tie"]  # fmt: skip
    return {"longer_at_tie": share_of(scores), "length_gap": _gap(errors)}


def _longer(lengths: tuple[int, int]) -> Winner:
    a, b = lengths
    return "tie" if a == b else "a" if a > b else "b"


def _gap(errors: Sequence[tuple[str, bool, bool]]) -> Summary:
    """From (question, is the longer answer right, is the judge wrong). What is drawn is a question's row of counts."""
    questions = sorted({question for question, _, _ in errors})
    counts = np.zeros((len(questions), 2, 2))  # question, is the longer right, (all, wrong)
    for question, longer_is_right, wrong in errors:
        counts[questions.index(question), int(longer_is_right)] += (1, wrong)

    def gap(places: Array, _: Array) -> Array:
        totals = counts[places.astype(np.int64)].sum(axis=-3)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = totals[..., 1] / totals[..., 0]
        return np.asarray(rates[..., 0] - rates[..., 1])

    clusters = {
        question: ClusterMean(mean=float(place), weight=1.0, n_scored=int(counts[place, :, 0].sum()), n_unscored=0)
        for place, question in enumerate(questions)
    }
    estimator = Estimator(description="difference of error rates", of=gap)
    summary = summarise(clusters, estimator=estimator)
    return replace(summary, unit_of_resampling="question")


def self_consistency(decisions: Iterable[Decision]) -> Summary:
    """Over all pairs of repeats of a match and order; no items where nothing was repeated."""
    found: dict[Match, list[Decision]] = {}
    for decision in decisions:
        found.setdefault(decision.match, []).append(decision)
    scores = [
        _repeated(one, place, one.said[place], other.said[place])
        for own in found.values()
        for one, other in combinations(own, 2)
        for place in (0, 1)
    ]
    return covered(share_of(scores))


def _repeated(decision: Decision, place: int, one: Said | None, other: Said | None) -> Score:
    missing = "no verdict" if one is None or other is None else ""
    name = f"{decision.match} {place}"
    return Score(name, None if missing else float(one == other), missing, cluster=decision.match.question)
