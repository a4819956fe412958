"""Which failures of a request can pass, which are its own, and which end the command."""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING, Any

from fedllm_bench.errors import UserError, first_line
from fedllm_bench.evaluation.judges.errors import NoReplyError, PassingError
from fedllm_bench.evaluation.judges.preset import Preset

if TYPE_CHECKING:
    import openai

# Refusals of one request's text, by the codes of OpenAI, Azure and vLLM; another text may be accepted.
OWN_CODES = ("context_length_exceeded", "string_above_max_length", "content_filter", "content_policy_violation")
OWN_WORDS = ("maximum context length", "content management policy", "content filter", "too many tokens")
NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
LONGEST_TEXT = 300


class TooLongError(Exception):
    """A response has more bytes than are read."""


def named(error: openai.APIError, preset: Preset, key: str) -> Exception:
    """The failure as :class:`PassingError`, :class:`NoReplyError` or :class:`UserError`; no text holds the key."""
    import openai

    said = _said(error, key)
    if isinstance(error, openai.APITimeoutError):
        return PassingError("timed out", is_charged=True)
    if isinstance(error, openai.APIConnectionError):
        return _connection(error, said)
    if isinstance(error, openai.RateLimitError) and error.code not in NO_MONEY:
        return PassingError(f"rate limited ({said})", wait_seconds=wait_seconds(error.response.headers))
    if isinstance(error, openai.APIStatusError) and (error.status_code >= 500 or error.status_code in (408, 409)):
        return PassingError(said, wait_seconds=wait_seconds(error.response.headers))
    if isinstance(error, openai.APIStatusError) and _is_own(error, said):
        return NoReplyError(f"the judge's server refused this request: {said}")
    return UserError(
        f"the judge {preset.name!r} ({preset.model} at {preset.base_url}) refused: {said}; {_advice(error)}"
    )


def _connection(error: openai.APIConnectionError, said: str) -> Exception:
    cause: BaseException | None = error.__cause__
    if isinstance(cause, TooLongError):
        return NoReplyError(str(cause))
    refused = type(cause).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")  # nothing was sent
    return PassingError(f"connection lost ({first_line(cause) if cause else said})", is_charged=not refused)


def _status(error: Any) -> int:
    return int(getattr(error, "status_code", 0))


def _is_own(error: openai.APIStatusError, said: str) -> bool:
    if error.status_code not in (400, 413, 422):
        return False
    return error.status_code == 413 or error.code in OWN_CODES or any(words in said.lower() for words in OWN_WORDS)


def _said(error: openai.APIError, key: str) -> str:
    """What the server says, as one bounded line."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    text = " ".join(str(message or error.message).replace(key, "***").split())
    line = "".join(c for c in text if c.isprintable())[:LONGEST_TEXT]
    return f"{_status(error)}: {line}" if _status(error) else line


def _advice(error: openai.APIError) -> str:
    import openai

    if isinstance(error, openai.AuthenticationError):
        return "check the key in the environment variable that the judge names"
    if isinstance(error, openai.PermissionDeniedError):
        return "the key may not use this model; ask its owner or take another judge"
    if isinstance(error, openai.NotFoundError):
        return "the server has no such model or address; check --judge-model and --judge-url"
    if isinstance(error, openai.RateLimitError):
        return "the account has no money left; what is done is kept"
    return "check the judge's model and options"


def wait_seconds(headers: Any) -> float | None:
    """How long a server asks to wait: Retry-After in seconds or as a date (RFC 9110, 10.2.3), or retry-after-ms."""
    if not headers:
        return None
    if (given := _number(headers.get("retry-after-ms"))) is not None:
        return given / 1000
    if (given := _number(headers.get("retry-after"))) is not None:
        return given
    try:
        when = email.utils.parsedate_to_datetime(headers.get("retry-after") or "")
    except (TypeError, ValueError):
        return None
    return max(0.0, when.timestamp() - time.time())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
