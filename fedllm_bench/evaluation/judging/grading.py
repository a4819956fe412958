"""From judges' replies to scores: one for each turn of each prompt, computed again from the records each time.

Nothing is dropped: a turn without an answer, a judgement, a reply or a verdict is a score without a value and with a
reason. A mean is shown with its coverage, and not at all where too much is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.common.text import counted, part_of
from fedllm_bench.evaluation.judges.finishes import ending
from fedllm_bench.evaluation.judges.questions import NotAskedError, Slot, answered, scale
from fedllm_bench.evaluation.judges.templates import hidden
from fedllm_bench.evaluation.judging.verdicts import Verdict, rating
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt, Reply
from fedllm_bench.evaluation.thoughts import without_thoughts
from fedllm_bench.scores.score import Score

# One unscored question of MT-Bench's 80 can move the mean of the others by up to 9 / 80 = 0.11, which is as much as
# methods differ by; and what a judge fails on is not chosen at random.
MIN_COVERAGE = 1.0
STALE = "it was judged for another answer; judge again"
Hashes = Mapping[Slot, str]


@dataclass(frozen=True, kw_only=True)
class Graded:
    """The mean over `n` questions, of which `n_scored` have a value for every turn.

    `mean` is None, and `reason` says why, where fewer are scored than was asked for.
    """

    mean: float | None
    n_scored: int
    n: int
    reason: str = ""

    @property
    def coverage(self) -> str:
        return f"{self.n_scored}/{self.n}"


def scores_of(
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answer],
    judgements: Iterable[Judgement],
    *,
    benchmark: str,
    hashes: Hashes | None = None,
) -> list[Score]:
    """A score for each turn of each prompt, in their order: the mean rating over repeats.

    `cluster` is the prompt's item_id; so is the score's own, with "/<turn>" behind it where there are several turns.
    `group` has the turn, and category and language where known. `answers`: by item_id. `hashes`, of the requests that
    these answers ask for: a judgement of another request does not count.
    """
    by_turn = _single(judgements)
    repeats = 1 + max((j.repeat for own in by_turn.values() for j in own), default=0)
    scores = []
    for prompt in prompts:
        for turn in range(1, len(prompt.turns) + 1):
            own = by_turn.get((prompt.item_id, turn), [])
            scores.append(_score(prompt, answers.get(prompt.item_id), turn, _whole(own, repeats, hashes), benchmark))
    return scores


def mean_or_refusal(scores: Iterable[Score], *, min_coverage: float = MIN_COVERAGE) -> Graded:
    """The mean over questions of the mean over their turns, where the share of scored questions is large enough."""
    questions: dict[str, list[Score]] = {}
    for score in scores:
        questions.setdefault(score.cluster, []).append(score)
    scored = [own for own in questions.values() if all(score.is_scored for score in own)]
    n_scored, n = len(scored), len(questions)
    if not scored or n_scored < min_coverage * n:
        reason = (
            f"{part_of(n - n_scored, n, 'question', 'have')} no score: {_commonest(questions)}" if n else "no questions"
        )
        return Graded(mean=None, n_scored=n_scored, n=n, reason=reason)
    means = [math.fsum(score.value or 0.0 for score in own) / len(own) for own in scored]
    return Graded(mean=math.fsum(means) / n_scored, n_scored=n_scored, n=n)


def reply_rating(reply: Reply, low: float, high: float, judged: Sequence[str] = ()) -> Verdict[float]:
    """The rating in a reply that was said to its end; `judged`: see :func:`verdicts.rating`."""
    cut = unfinished(reply)
    return Verdict(None, cut) if cut else rating(reply.text, low, high, judged)


def _rating(judgement: Judgement, low: float, high: float, judged: Sequence[str]) -> Verdict[float]:
    if judgement.reply is None:
        return Verdict(None, judgement.reason or "no reply")
    return reply_rating(judgement.reply, low, high, judged)


def unfinished(reply: Reply) -> str:
    """Why a reply cannot have a verdict at its end, where prompts ask for it; "" where it can."""
    named = "" if reply.finish in ("length", "content_filter") else f" (finish_reason {reply.finish[:80]!r})"
    match ending(reply.finish):
        case "whole":
            return ""
        case "cut":
            return f"the judge's reply was cut after {counted(reply.completion_tokens, 'token')}{named}"
        case "filtered":
            return f"the judge's reply was withheld by a content filter{named}"
    return f"the judge's reply broke off{named}"


def _single(judgements: Iterable[Judgement]) -> dict[tuple[str, int], list[Judgement]]:
    found: dict[tuple[str, int], list[Judgement]] = {}
    for judgement in judgements:
        if not judgement.order:
            found.setdefault((judgement.item_id, judgement.turn), []).append(judgement)
    return found


def _whole(own: Sequence[Judgement], repeats: int, hashes: Hashes | None) -> list[Judgement] | str:
    """One judgement for each repeat, or what is wrong with them."""
    if not own:
        return "no judge"
    by_repeat = {judgement.repeat: judgement for judgement in own}
    if len(own) > len(by_repeat):
        return "two judgements of one repeat"
    if len(by_repeat) < repeats:
        return f"{part_of(repeats - len(by_repeat), repeats, 'judgement', 'are')} missing"
    stale = hashes is not None and any(hashes.get(slot_of(j)) != j.request_hash for j in own)
    return STALE if stale else [by_repeat[n] for n in range(repeats)]


def slot_of(judgement: Judgement) -> Slot:
    return Slot(judgement.item_id, judgement.turn, judgement.repeat, judgement.order)


def _score(
    prompt: Prompt, answer: Answer | None, turn: int, judgements: list[Judgement] | str, benchmark: str
) -> Score:
    value, reason, ratings = _value(prompt, answer, turn, judgements, benchmark)
    evidence: dict[str, object] = {"ratings": ratings} if ratings else {}
    if answer is not None and (unseen := sum(map(hidden, without_thoughts(answer.turns[:turn])))):
        evidence["characters_not_shown"] = unseen
    return turn_score(prompt, turn, value, reason, evidence)


def turn_score(prompt: Prompt, turn: int, value: float | None, reason: str, evidence: dict[str, object]) -> Score:
    """Of one turn of a prompt: the cluster is the prompt, and the group has what is known of it."""
    group = {"turn": str(turn), "category": prompt.category, "language": prompt.language}
    return Score(
        f"{prompt.item_id}/{turn}" if len(prompt.turns) > 1 else prompt.item_id,
        value,
        reason,
        evidence=evidence,
        cluster=prompt.item_id,
        group={key: text for key, text in group.items() if text},
    )


def _value(
    prompt: Prompt, answer: Answer | None, turn: int, judgements: list[Judgement] | str, benchmark: str
) -> tuple[float | None, str, list[float | None]]:
    """The mean rating, or why there is none, and the rating of each repeat."""
    try:
        given = answered(prompt, answer, turn)
    except NotAskedError as error:
        return None, str(error), []
    if isinstance(judgements, str):
        return None, judgements, []
    low, high = scale(benchmark, prompt, turn)
    verdicts = [_rating(judgement, low, high, (*prompt.turns, *given)) for judgement in judgements]
    ratings = [verdict.value for verdict in verdicts]
    reasons = [verdict.reason for verdict in verdicts if verdict.value is None]
    if reasons:
        return None, reasons[0], ratings
    return math.fsum(value for value in ratings if value is not None) / len(ratings), "", ratings


def _commonest(questions: Mapping[str, list[Score]]) -> str:
    reasons = [score.reason or "weight 0" for own in questions.values() for score in own if not score.is_scored]
    return max(sorted(set(reasons)), key=reasons.count) if reasons else "none is scored"
