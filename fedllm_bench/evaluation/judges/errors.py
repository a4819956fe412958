"""Why a server did not reply to one request. What concerns all requests is a UserError and ends the command."""

from __future__ import annotations

from fedllm_bench.common.errors import UserError


class NoReplyError(Exception):
    """No reply to this request; the text says why.

    `gave_up`: the server failed again and again, others may too. `shared`: it refused this request, and this is what
    would end the command if it refused whatever it is asked.
    """

    def __init__(self, reason: str, *, gave_up: bool = False, shared: UserError | None = None) -> None:
        super().__init__(reason)
        self.gave_up = gave_up
        self.shared = shared

    @property
    def is_refusal(self) -> bool:
        return self.shared is not None


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
