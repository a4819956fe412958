"""The reasons of a funnel as people read them.

The texts in manifests are part of the hashes of splits, so they stay as the first release wrote them.
"""

from __future__ import annotations

import re

NO_LIMIT = "(no limit)"
ANY = "any number"
SHOWN = {
    f"users who are not among the {NO_LIMIT} with most rows": "no limit on the number of clients",
    f"more than {NO_LIMIT} rows of one client": "no limit on the rows of one client",
    "language not in all": "no limit on languages",
    f"characters not within 1 to {ANY} (prompt) and 1 to {ANY} (completion)": "no limit on characters",
    "turns are not user, assistant, user, ... up to an assistant's": (
        "turns must go user, assistant, ..., and end with assistant"
    ),
}


def in_words(reason: str) -> str:
    """The reason of a step as it is shown."""
    return SHOWN.get(reason) or re.sub(rf"\b(\d+) to {ANY}", r"\1 or more", reason)
