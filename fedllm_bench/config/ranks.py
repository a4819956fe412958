"""`lora.ranks`: clients whose adapters have different ranks, as a list that is dealt out or as a distribution."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENTRY = re.compile(r"(\d{1,9})(?::(\d*\.?\d{1,20}))?", re.ASCII)
ADVICE = "give a list that is dealt out (4,8) or shares that add up to 1 (4:0.8,8:0.2), each rank at most lora.rank"


@dataclass(frozen=True)
class Ranks:
    """Shares of the clients that have these ranks; without shares the list is dealt out, each entry equally often."""

    values: tuple[int, ...]
    shares: tuple[float, ...] = ()


def parsed(text: str, most: int) -> Ranks:
    """Of "4,8" or "4:0.8,8:0.2". Raises a :class:`ValueError` of one line for anything else, or a rank above `most`."""
    parts = [part.strip() for part in text.split(",")]
    found = [ENTRY.fullmatch(part) for part in parts]
    if not text.strip(" ,"):
        raise _problem(text, "an empty list")
    wrong = next((part for part, entry in zip(parts, found, strict=True) if entry is None), None)
    if wrong is not None:
        raise _problem(text, f"{wrong[:40]!r} is no rank")
    entries = [(int(entry[1]), entry[2]) for entry in found if entry is not None]
    values, shares = tuple(value for value, _ in entries), [share for _, share in entries]
    if outside := [value for value in values if not 1 <= value <= most]:
        raise _problem(text, f"{outside[0]} is not in 1 to lora.rank={most}")
    if shares == [None] * len(shares):
        return Ranks(values)
    if None in shares:
        raise _problem(text, "some ranks have a share and some have none")
    if len(set(values)) < len(values):
        raise _problem(text, "a rank stands twice")
    return Ranks(values, _checked(text, [float(share) for share in shares]))


def _checked(text: str, shares: list[float]) -> tuple[float, ...]:
    if abs(sum(shares) - 1) > 1e-6:
        raise _problem(text, f"the shares add up to {sum(shares):g}")
    if 0.0 in shares:
        raise _problem(text, "a share is 0, so that no client has its rank")
    return tuple(shares)


def _problem(text: str, what: str) -> ValueError:
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    return ValueError(f"lora.ranks={shown!r}: {what}; {ADVICE}")
