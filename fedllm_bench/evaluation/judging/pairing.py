"""Pairs of answers, each shown in both orders: who is preferred, and how often the order alone decided.

Zheng et al., 2023 (arXiv:2306.05685), section 3.4: a win counts only where both orders agree; else it is a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fedllm_bench.evaluation.judging.grading import turn_score, unfinished
from fedllm_bench.evaluation.judging.verdicts import Verdict, Winner, pair_verdict
from fedllm_bench.evaluation.records import Judgement, Prompt
from fedllm_bench.scores.score import Score

POINTS: dict[Winner, float] = {"A": 1.0, "B": 0.0, "tie": 0.5}
SWAPPED: dict[Winner, Winner] = {"A": "B", "B": "A", "tie": "tie"}


def pair_scores_of(prompts: Sequence[Prompt], judgements: Iterable[Judgement]) -> list[Score]:
    """For each turn of each prompt 1 (the side's own answer wins), 0 (the other's), 0.5 (tie), as a mean over repeats.

    `evidence` has, for each repeat, the winner in the order "ab" and in "ba", in terms of "ab" (A is the side's own).
    """
    by_turn: dict[tuple[str, int], list[Judgement]] = {}
    for judgement in judgements:
        if judgement.order:
            by_turn.setdefault((judgement.item_id, judgement.turn), []).append(judgement)
    repeats = 1 + max((j.repeat for own in by_turn.values() for j in own), default=0)
    return [
        _score(prompt, turn, by_turn.get((prompt.item_id, turn), []), repeats)
        for prompt in prompts
        for turn in range(1, len(prompt.turns) + 1)
    ]


def _score(prompt: Prompt, turn: int, own: list[Judgement], repeats: int) -> Score:
    verdicts = {(j.repeat, j.order): _winner(j) for j in own}
    pairs = [(verdicts.get((n, "ab")), verdicts.get((n, "ba"))) for n in range(repeats)]
    reasons = [_why(verdict) for pair in pairs for verdict in pair if verdict is None or verdict.value is None]
    winners = [(ab.value, SWAPPED[ba.value]) for ab, ba in pairs if ab and ba and ab.value and ba.value]
    value = None if reasons or not own else math.fsum(_points(*pair) for pair in winners) / repeats
    reason = (reasons[0] if own else "no judge") if value is None else ""
    return turn_score(prompt, turn, value, reason, {"winners": [list(pair) for pair in winners]} if winners else {})


def _points(ab: Winner, ba: Winner) -> float:
    return POINTS[ab] if ab == ba else POINTS["tie"]


def _winner(judgement: Judgement) -> Verdict[Winner]:
    if judgement.reply is None:
        return Verdict(None, judgement.reason or "no reply")
    cut = unfinished(judgement.reply)
    return Verdict(None, cut) if cut else pair_verdict(judgement.reply.text)


def _why(verdict: Verdict[Winner] | None) -> str:
    return "a judgement of one order is missing" if verdict is None else verdict.reason
