"""Why a judge did not reply to one request. What concerns all requests is a UserError and ends the command."""

from __future__ import annotations


class NoReplyError(Exception):
    """No reply to this request; the text says why. `gave_up`: the server failed again and again, others may too."""

    def __init__(self, reason: str, *, gave_up: bool = False) -> None:
        super().__init__(reason)
        self.gave_up = gave_up


class PassingError(Exception):
    """One try failed in a way that can pass. `wait_seconds` is what the server asked for, if it did.

    `is_charged`: the provider may have counted it, since the request was taken and its reply got lost.
    """

    def __init__(self, reason: str, *, wait_seconds: float | None = None, is_charged: bool = False) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.is_charged = is_charged


class OverBudgetError(Exception):
    """The next request could cost more than is left of --max-cost."""
