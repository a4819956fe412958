"""When to give up asking: a server that is down, or one that refuses whatever it is asked.

A refused request is its own affair where the server replies to others. Where it refused the first three and replied to
none, it is asked something plain with the same settings: a reply to that shows that the refusals are of single
requests, and asking goes on, however many follow. So a run can always be finished, in whatever order replies come.
"""

from __future__ import annotations

from collections.abc import Callable

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.faults import NoReplyError

MOST_GIVEN_UP = 5  # in a row: the server is down, and each further question would only wait for its retries
MOST_REFUSED = 3  # at first, with no reply to any


class Streak:
    """Failures in a row. `check` asks something plain, and raises a :class:`UserError` where that is refused too."""

    def __init__(self, who: str, check: Callable[[], None]) -> None:
        self.who, self._check = who, check
        self._given_up = self._refused = 0
        self.is_replying = False  # the server has replied to something

    @property
    def is_failing(self) -> bool:
        """Whether the last questions gave up: the server may be down."""
        return self._given_up > 0

    def replied(self) -> None:
        self._given_up, self.is_replying = 0, True

    def failed(self, error: NoReplyError) -> None:
        """Raises a :class:`UserError` where it is of no use to ask on."""
        self._given_up += error.gave_up
        if self._given_up >= MOST_GIVEN_UP:
            raise UserError(f"{self.who} did not reply to {self._given_up} questions in a row ({error}); what came "
                            "before is kept: give the same command when it is back")  # fmt: skip
        self._refused += error.is_refusal
        if self._refused >= MOST_REFUSED:
            self.end()

    def end(self) -> None:
        """The same decision where nothing more is to be asked."""
        if self._refused and not self.is_replying:
            self._check()
            self.is_replying = True
