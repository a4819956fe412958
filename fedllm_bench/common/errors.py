"""The one error that users are meant to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# What is to be done about a run that was changed after it was written, by its folder.
AGAIN = "delete the folder {run}, and give the same command to run it again"


class UserError(ValueError):
    """Bad input, in one line: what was got, what is allowed, what to do. The command exits with code 2."""


def unknown(kind: str, name: str, known: Iterable[str], advice: str = "") -> UserError:
    """An error for a name that is not registered, with the nearest one that is."""
    names = sorted(known)
    near = nearest(name, names, cutoff=0.5)
    hint = f"; did you mean {near!r}?" if near else "."
    tail = f" ({advice})" if advice else ""
    return UserError(f"no {kind} {shown(name)}{hint} There are: {', '.join(names)}{tail}")


def shown(value: object) -> str:
    """`value` for an error message: on one line and not long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no int of more than 4,300 digits
        text = f"a value of type {type(value).__name__} that is too long to be shown"
    return text if len(text) <= 60 else f"{text[:60]}..."


def escaped(text: str) -> str:
    """`text` with what a terminal would obey, or not show, spelt out: "a\\nb" for two lines."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def nearest(name: str, known: Sequence[str], cutoff: float = 0.75) -> str | None:
    """The known name that is spelt most like `name`; None where none is alike enough."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def first_line(error: object) -> str:
    """What an error of a library says, as one line; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
