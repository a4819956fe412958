"""Text of a model as it is put before a judge: bounded, valid, and without control characters."""

from __future__ import annotations

import re

MOST_CHARACTERS = 20_000  # five times an answer of 1,024 tokens in English
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
CUT = "\n[the rest of this text, {} characters, is not shown]"


def shown(text: str) -> str:
    """`text` without control characters (each becomes U+FFFD), cut after 20,000 characters with a note of how many."""
    kept = text[:MOST_CHARACTERS].replace("\r\n", "\n")
    return CONTROL.sub("\ufffd", kept) + (CUT.format(hidden(text)) if hidden(text) else "")


def hidden(text: str) -> int:
    """How many characters of `text` a judge does not see."""
    return max(0, len(text) - MOST_CHARACTERS)
