"""What a server says when it refuses or fails, from whatever form its error has: one bounded line without the key.

{"error": {"message", "type", "code", "param"}}    OpenAI and most others; also inside a response with status 200
{"error": "..."}, {"message": ...}, {"detail": ...}, [{"error": ...}], plain text, HTML
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import Any

LONGEST_TEXT = 300
MOST_READ = 20_000  # bytes of an error; what it says stands at its start
TEXTS = ("message", "msg", "detail", "error", "error_message", "reason", "description", "title")
TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ServerWords:
    """`text` is one line of printable characters. `names` are the error's code and type; `parameters` those it names.

    `status` is that of HTTP, or the one that stands inside the error; 0 where there is none.
    """

    status: int
    text: str
    names: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        return f"{self.status}: {self.text}" if self.status else self.text

    @property
    def line(self) -> str:
        """With the code and type that the text does not name already."""
        more = [name for name in self.names if name not in self.text]
        return f"{self.short} ({', '.join(more)})" if more else self.short


def said_in(body: bytes, status: int, key: str) -> ServerWords:
    """Of the body of an error; `key` is taken out of it, wherever it stands."""
    text = body[:MOST_READ].decode("utf-8", "replace")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ServerWords(status=status, text=one_line(_without_tags(text), key) or "no words")
    return of_error(found, status, key)


def of_error(found: Any, status: int, key: str) -> ServerWords:
    """Of an error that was read as JSON."""
    inner = _inner(found)
    given = [inner.get(name) for name in ("code", "type")]
    names = [one_line(str(name), key)[:80] for name in given if isinstance(name, str | int) and name != status]
    return ServerWords(
        status=status,
        text=one_line(_text(found), key) or "no words",
        names=tuple(dict.fromkeys(name for name in names if name)),
        parameters=tuple(_parameters(inner)),
    )


def one_line(text: str, key: str) -> str:
    """`text` without the key, white space as single blanks, other characters that cannot be printed left out."""
    line = " ".join(text.replace(key, "***").split()) if key else " ".join(text.split())
    return "".join(c for c in line if c.isprintable())[:LONGEST_TEXT]


def _inner(found: Any) -> dict[str, Any]:
    """The object that holds code and type: the innermost `error`, of the first item where it is a list."""
    for _ in range(4):
        if isinstance(found, list) and found:
            found = found[0]
        elif isinstance(found, dict) and isinstance(found.get("error"), dict | list):
            found = found["error"]
        else:
            break
    return found if isinstance(found, dict) else {}


def _text(found: Any, depth: int = 0) -> str:
    """The words: of the first key that has any, and of each item of a list."""
    if isinstance(found, list) and depth < 6:
        return "; ".join(filter(None, (_text(item, depth + 1) for item in found[:5])))
    if isinstance(found, dict) and depth < 6:
        words = next((text for key in TEXTS if (text := _text(found.get(key), depth + 1))), "")
        place = _place(found)
        return f"{place}: {words}" if place and words else words
    return "" if found is None or isinstance(found, dict | list) else str(found)


def _place(found: dict[str, Any]) -> str:
    """Where FastAPI found something wrong, as "body.seed"."""
    place = found.get("loc")
    return ".".join(map(str, place[:6])) if isinstance(place, list) else ""


def _parameters(inner: dict[str, Any]) -> list[str]:
    """Parameters that an error names by a field of its own."""
    found = [inner["param"]] if isinstance(inner.get("param"), str) else []
    message = inner.get("message")
    details = inner.get("detail") or (message.get("detail") if isinstance(message, dict) else None)
    for detail in details if isinstance(details, list) else ():
        place = detail.get("loc") if isinstance(detail, dict) else None
        found += [part for part in place if isinstance(part, str)][-1:] if isinstance(place, list) else []
    return found


def _without_tags(text: str) -> str:
    return html.unescape(TAG.sub(" ", text)) if "<" in text else text
