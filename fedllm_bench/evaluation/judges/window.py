"""Asking many questions with few under way at once, in order of arrival."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from fedllm_bench.evaluation.judges.faults import NoReplyError, OverBudgetError
from fedllm_bench.evaluation.judges.questions import Question
from fedllm_bench.evaluation.judges.streak import Streak
from fedllm_bench.evaluation.records import Reply

NOT_AFFORDED = "not asked: --max-cost was reached"
Finished = tuple[Question, Future[Reply]]


class Submits(Protocol):
    def submit(self, question: Question) -> Future[Reply]: ...

    def check_any(self) -> None: ...


@dataclass(frozen=True)
class QuestionOutcome:
    """A question and its reply, or none, and `reason` says why. `is_refusal`: the server would not take it."""

    question: Question
    reason: str = ""
    reply: Reply | None = None
    is_refusal: bool = False


def outcomes(judge: Submits, questions: Iterable[Question], width: int) -> Iterator[QuestionOutcome]:
    """One for each question, with at most `width` of them in memory. Ends early where --max-cost is reached.

    Raises a :class:`UserError` for what every question would meet; replies that came before are stored.
    """
    finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
    waiting, streak = iter(questions), Streak("the judge", judge.check_any)
    under_way = sum(_submit(judge, question, finished) for question in itertools.islice(waiting, width))
    while under_way:
        outcome = _outcome(*finished.get(), streak)
        under_way -= 1
        if outcome.reason == NOT_AFFORDED:
            waiting = iter(())
        under_way += sum(_submit(judge, question, finished) for question in itertools.islice(waiting, 1))
        yield outcome
    streak.end()


def _submit(judge: Submits, question: Question, finished: queue.SimpleQueue[Finished]) -> int:
    judge.submit(question).add_done_callback(lambda future: finished.put((question, future)))
    return 1


def _outcome(question: Question, future: Future[Reply], streak: Streak) -> QuestionOutcome:
    try:
        reply = future.result()
    except NoReplyError as error:
        streak.failed(error)
        return QuestionOutcome(question, str(error), is_refusal=error.is_refusal)
    except OverBudgetError:
        return QuestionOutcome(question, NOT_AFFORDED)
    streak.replied()
    return QuestionOutcome(question, reply=reply)
