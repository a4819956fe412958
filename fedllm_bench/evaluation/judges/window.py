"""Asking many questions with few under way at once, in order of arrival."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from fedllm_bench.errors import UserError
from fedllm_bench.evaluation.judges.errors import NoReplyError, OverBudgetError
from fedllm_bench.evaluation.judges.questions import Question
from fedllm_bench.evaluation.records import Reply

MOST_GIVEN_UP = 5  # in a row: the server is down, and each further question would only wait for its retries
NOT_AFFORDED = "not asked: --max-cost was reached"
Finished = tuple[Question, Future[Reply]]


class Submits(Protocol):
    def submit(self, question: Question) -> Future[Reply]: ...


@dataclass(frozen=True)
class Outcome:
    """A question that has its reply, which is stored, or none, and `reason` says why."""

    question: Question
    reason: str = ""


def outcomes(judge: Submits, questions: Iterable[Question], width: int) -> Iterator[Outcome]:
    """One for each question, with at most `width` of them in memory. Ends early where --max-cost is reached.

    Raises a :class:`UserError` for what every question would meet; replies that came before are stored.
    """
    finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
    waiting = iter(questions)
    under_way = sum(_submit(judge, question, finished) for question in itertools.islice(waiting, width))
    given_up = 0
    while under_way:
        outcome, gave_up = _outcome(*finished.get())
        under_way -= 1
        given_up = given_up + 1 if gave_up else 0 if not outcome.reason else given_up
        if given_up >= MOST_GIVEN_UP:
            raise UserError(f"the judge did not reply to {given_up} questions in a row ({outcome.reason}); what came "
                            "before is kept: give the same command when it is back")  # fmt: skip
        if outcome.reason == NOT_AFFORDED:
            waiting = iter(())
        under_way += sum(_submit(judge, question, finished) for question in itertools.islice(waiting, 1))
        yield outcome


def _submit(judge: Submits, question: Question, finished: queue.SimpleQueue[Finished]) -> int:
    judge.submit(question).add_done_callback(lambda future: finished.put((question, future)))
    return 1


def _outcome(question: Question, future: Future[Reply]) -> tuple[Outcome, bool]:
    """What came of a question, and whether the server failed again and again."""
    try:
        future.result()
    except NoReplyError as error:
        return Outcome(question, str(error)), error.gave_up
    except OverBudgetError:
        return Outcome(question, NOT_AFFORDED), False
    return Outcome(question), False
