"""How long a server asks to wait, in any of the forms that servers use."""

from __future__ import annotations

import email.utils
import time
from datetime import UTC
from typing import Any


def wait_seconds(headers: Any) -> float | None:
    """From retry-after-ms, or Retry-After as seconds, whole or decimal, or as a date (RFC 9110, 10.2.3).

    0 for a date that has passed; None where the server does not say.
    """
    if not headers:
        return None
    if (given := _number(headers.get("retry-after-ms"))) is not None:
        return given / 1000
    text = headers.get("retry-after")
    return given if (given := _number(text)) is not None else _until(text or "")


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _until(text: str) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(text)
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)  # "-0000" is UTC too, and RFC 850 dates are GMT
        return max(0.0, aware.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
