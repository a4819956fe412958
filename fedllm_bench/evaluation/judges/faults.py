"""Which failures of a request can pass, which are its own, and which end the command.

No wording decides: a refusal (a status of 400 or above) is the request's own unless it speaks of the key, the money or
the address, which all requests share. Whether the server refuses everything is found out by asking (`streak`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.retry_after import wait_seconds
from fedllm_bench.evaluation.judges.said import ServerWords, of_error, one_line, said_in
from fedllm_bench.evaluation.judges.served import Served, option_for
from fedllm_bench.evaluation.judges.templates import Messages

if TYPE_CHECKING:
    import openai

PASSING = (408, 409, 425, 429)  # and from 500 on
SHARED = (401, 402, 404, 405, 407)  # key, money, address: what every request would meet
NO_KEY = "it wants a key: name the variable that holds it as key_env in a judge's file (docs/judges.md)"
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
FILTERED = ("content_filter", "content_policy_violation", "invalid_prompt", "moderation_blocked")
TOO_LONG = ("context_length_exceeded", "string_above_max_length", "exceed_context_size_error")
# for the name of a reason alone: what is refused is decided above
FILTERED_WORDS = re.compile(
    r"content (filter|management|exists risk)|moderat|flagged|usage (polic|guideline)|high risk|inappropriate|safety"
    r"|content polic|violat",
    re.I,
)
TOO_LONG_WORDS = re.compile(
    r"context (length|size|window)|too (long|large|many tokens)|maximum (context|number of tokens|input|prompt)"
    r"|(exceed|longer than|must be <=).*(token|length)|token.*(exceed|longer than|must be <=)",
    re.I,
)
NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
NOT_SENDABLE = ("UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "UnicodeEncodeError")


class TooLongError(Exception):
    """A response has more bytes than are read."""


def named(error: openai.APIError, served: Served, key: str, request: Mapping[str, Any]) -> Exception:
    """The failure as :class:`PassingError`, :class:`NoReplyError` or :class:`UserError`; no text holds the key."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return PassingError(f"timed out{network.via(served.base_url)}", is_charged=True)
    if isinstance(error, openai.APIConnectionError):
        return _connection(error, served, key)
    if not isinstance(error, openai.APIStatusError):
        return PassingError(one_line(first_line(error), key), is_charged=True)
    said = said_in(error.response.content, error.status_code, key)
    return of_status(said, served, request, wait_seconds(error.response.headers))


def announced(error: Any, served: Served, key: str, request: Mapping[str, Any]) -> Exception:
    """The same for an error that stands inside a response with status 200: one of the provider behind the server."""
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    known = int(str(code)) if re.fullmatch(r"[45]\d\d", str(code), re.ASCII) else 0
    said = of_error({"error": error} if isinstance(error, dict) else error, known, key)
    if not known:
        return PassingError(f"the server announced an error: {said.line}", is_charged=True)
    return of_status(said, served, request, None)


def of_status(said: ServerWords, served: Served, request: Mapping[str, Any], wait: float | None) -> Exception:
    """A refusal or failure by its status, of HTTP or inside a response; the codes of its error tell some apart."""
    is_lasting = bool({*NO_MONEY, *TOO_LONG, *FILTERED} & {*said.names})
    if (said.status in PASSING or said.status >= 500) and not is_lasting:
        limited = f"rate limited ({said.short})" if said.status == 429 else said.short
        return PassingError(limited + network.via(served.base_url), wait_seconds=wait)
    if said.status in SHARED or said.status < 400 or {*NO_MONEY} & {*said.names}:
        return refused_all(said, served, request)
    shared = refused_all(said, served, request, " whatever it was asked")
    return NoReplyError(f"{_kind(said)}: {said.line}", shared=shared)


def refused_all(said: ServerWords, served: Served, request: Mapping[str, Any], before: str = "") -> UserError:
    return UserError(f"{served.place} refused{before}: {said.line}{network.via(served.base_url)}; "
                     f"{advice(said, served, request)}")  # fmt: skip


def _kind(said: ServerWords) -> str:
    """What kind of refusal it is, in words: by the error's code, and by the server's words only where it has none."""
    names, is_named = {*said.names}, {*TOO_LONG, *FILTERED} & {*said.names}
    if names & {*FILTERED} or (not is_named and FILTERED_WORDS.search(said.text)):
        return "withheld by a content filter"
    if names & {*TOO_LONG} or said.status == 413 or TOO_LONG_WORDS.search(said.text):
        return "too long for the model"
    return "the server refused this request"


def _connection(error: openai.APIConnectionError, served: Served, key: str) -> Exception:
    cause: BaseException | None = error.__cause__
    if isinstance(cause, TooLongError):
        return NoReplyError(str(cause))
    said, via = one_line(first_line(cause or error), key), network.via(served.base_url)
    if type(cause).__name__ in NOT_SENDABLE:
        return UserError(f"{served.place} cannot be asked: {said}{via}; check {served.url_option}")
    return PassingError(f"connection lost ({said}){via}", is_charged=type(cause).__name__ not in NOT_SENT)


def advice(said: ServerWords, served: Served, request: Mapping[str, Any]) -> str:
    """What to do where every request is refused so."""
    messages: Messages = tuple(request.get("messages", ()))
    has_system = bool(messages) and messages[0]["role"] == "system"
    if {*NO_MONEY} & {*said.names} or said.status == 402:
        return "the account has no money left; what is done is kept"
    if said.status == 401:
        is_named = bool(served.key_env)
        return f"check the key in the environment variable {served.key_env}" if is_named else NO_KEY
    if said.status == 403:
        return f"the key may not use this model; ask its owner or take another {served.noun}"
    if said.status == 407:
        return "check user and password of the proxy"
    if said.status in (404, 405) or said.status < 400:
        return f"the server has no such model or address; check {served.model_option} and {served.url_option}"
    model = "the model" if served.noun == "model" else f"the {served.noun}'s model"
    return option_for(said, request, has_system=has_system) or f"check {model} and options"


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
