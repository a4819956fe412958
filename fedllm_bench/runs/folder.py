"""What a run folder holds and how its parts are called."""

from __future__ import annotations

import re


def folder_name(client_id: str, client: int) -> str:
    """A client's id where it can name a folder on every system, else its number in the split."""
    plain = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", client_id) and not client_id.endswith(".")
    return client_id if plain else f"c{client:06d}"
