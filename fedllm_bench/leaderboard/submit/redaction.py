"""What must not become public: places on the submitter's disk and network, wherever a record names them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

# "/home/x", "~/x", "./x", "../x", "C:\\x", "\\\\server\\x", "file:///x"; a hub name ("org/model") is none of these
PLACE = re.compile(r"(?:/|~|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")
PUBLIC_HOST = re.compile(r"(?!.*\.(?:local|internal|lan|home|corp|intranet)$)(?:[a-z0-9-]+\.)+[a-z]{2,}")


def without_places(value: Any) -> Any:
    """JSON data in which a path is its last part, and an address that is not public is "".

    What a path held is named by hashes elsewhere (split, base, adapter), so nothing is lost that a reader could use.
    """
    if isinstance(value, dict):
        return {key: without_places(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_places(part) for part in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    if re.match(r"[a-z]+://", text) and not text.startswith("file:"):
        return text if _is_public(text) else ""
    if not PLACE.match(text) or "\n" in text:
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1].lstrip("~.")


def _is_public(address: str) -> bool:
    """Whether the host is one that others can reach, and the address holds no user name or key."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return bool(PUBLIC_HOST.fullmatch(parts.hostname or "")) and "@" not in parts.netloc and not parts.query
