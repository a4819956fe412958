"""Client ids as people can read them."""

from __future__ import annotations

import hashlib


def short_name(client: str, length: int = 14) -> str:
    """A client id of at most `length` characters; long ones keep both ends.

    An id beyond Latin letters becomes a hash: fonts lack its glyphs, and a terminal may lack its encoding.
    """
    if any(ord(letter) > 0x24F or not letter.isprintable() for letter in client):
        return f"#{hashlib.sha256(client.encode()).hexdigest()[:8]}"
    tail = 4
    return client if len(client) <= length else f"{client[: length - tail - 1]}…{client[-tail:]}"
