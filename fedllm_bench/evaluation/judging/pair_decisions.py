"""From a judge's replies on a pair of answers to one decision, as MT-Bench's paper makes it.

A judge sees both orders. Where it names the same winner twice, that one has won; everything else is a tie
(Zheng et al., 2023, arXiv:2306.05685, section 3.4: "a conservative approach"). A reply without a verdict leaves the
whole decision open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedllm_bench.evaluation.judging import verdicts
from fedllm_bench.evaluation.judging.grading import unfinished
from fedllm_bench.evaluation.judging.pair_prompts import ORDERS, PairOrder
from fedllm_bench.evaluation.judging.votes import JudgeVote, Match, Winner
from fedllm_bench.evaluation.records import Judgement, Reply

Said = Literal["first", "second", "tie"]  # which of the two answers, by the place in which it was shown
SAID: Mapping[verdicts.Winner, Said] = {"A": "first", "B": "second", "tie": "tie"}
WON: Mapping[PairOrder, Mapping[Said, Winner]] = {
    "ab": {"first": "a", "second": "b", "tie": "tie"},
    "ba": {"first": "b", "second": "a", "tie": "tie"},
}


def last_verdict(reply: Reply) -> tuple[Said | None, str]:
    """What a reply prefers; without a verdict, None and the reason."""
    if cut := unfinished(reply):
        return None, cut
    verdict = verdicts.pair_verdict(reply.text)
    return (SAID[verdict.value], "") if verdict.value else (None, verdict.reason)


ReadVerdict = Callable[[Reply], tuple[Said | None, str]]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One repeat of one match. `ab` and `ba`: what was said in each order; None where there is no verdict."""

    match: Match
    repeat: int
    ab: Said | None
    ba: Said | None
    reason: str = ""

    @property
    def winner(self) -> Winner | None:
        """None where one of the orders has no verdict."""
        if self.ab is None or self.ba is None:
            return None
        one, other = WON["ab"][self.ab], WON["ba"][self.ba]
        return one if one == other else "tie"

    @property
    def is_consistent(self) -> bool | None:
        """Whether the same was found in both orders."""
        if self.ab is None or self.ba is None:
            return None
        return WON["ab"][self.ab] == WON["ba"][self.ba]

    @property
    def said(self) -> tuple[Said | None, Said | None]:
        return self.ab, self.ba

    def vote(self, judge: str) -> JudgeVote:
        return JudgeVote(self.match, judge, self.winner, self.is_consistent is not False, self.reason)


def decisions(
    judgements: Mapping[Match, Iterable[Judgement]], matches: Sequence[Match], read: ReadVerdict = last_verdict
) -> list[Decision]:
    """One for each match and repeat. A match, or a repeat of it, that was never asked has no verdict either."""
    return [decision for match in matches for decision in _of_match(match, judgements.get(match, ()), read)]


def _of_match(match: Match, judgements: Iterable[Judgement], read: ReadVerdict) -> list[Decision]:
    found = {(judgement.repeat, judgement.order): judgement for judgement in judgements}
    repeats = sorted({repeat for repeat, _ in found}) or [0]
    return [_decision(match, repeat, [found.get((repeat, order)) for order in ORDERS], read) for repeat in repeats]


def _decision(match: Match, repeat: int, asked: Sequence[Judgement | None], read: ReadVerdict) -> Decision:
    verdicts = [_read(judgement, read) for judgement in asked]
    reasons = [reason for _, reason in verdicts if reason]
    return Decision(match=match, repeat=repeat, ab=verdicts[0][0], ba=verdicts[1][0], reason="; ".join(reasons))


def _read(judgement: Judgement | None, read: ReadVerdict) -> tuple[Said | None, str]:
    """What was said, or why that is not known."""
    if judgement is None:
        return None, "not asked"
    if judgement.reply is None:
        return None, judgement.reason or "no reply"
    return read(judgement.reply)
