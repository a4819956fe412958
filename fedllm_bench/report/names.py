"""Client ids, and losses, as people can read them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

LOSS_NAMES = {"heldout": "held-out loss", "preference_loss": "held-out preference loss"}
LENGTH = 14
LISTED = 12  # more names than these would hide what they stand beside


def short_name(client: str, length: int = LENGTH) -> str:
    """A client id of at most `length` characters; long ones keep both ends.

    An id beyond Latin letters becomes a hash: fonts lack its glyphs, and a terminal may lack its encoding.
    """
    if any(ord(letter) > 0x24F or not letter.isprintable() for letter in client):
        return _hashed(client)
    tail = 4
    return client if len(client) <= length else f"{client[: length - tail - 1]}…{client[-tail:]}"


def short_names(clients: Sequence[str], length: int = LENGTH) -> list[str]:
    """The short name of each client; those that would look alike become hashes."""
    names = [short_name(client, length) for client in clients]
    count = Counter(names)
    return [_hashed(client) if count[name] > 1 else name for client, name in zip(clients, names, strict=True)]


def listed(clients: Sequence[str]) -> str:
    """ " (user-004, user-017)" with a space before it; empty where there are none or too many to read."""
    return f" ({', '.join(short_names(clients))})" if 0 < len(clients) <= LISTED else ""


def _hashed(client: str) -> str:
    return f"#{hashlib.sha256(client.encode()).hexdigest()[:8]}"
