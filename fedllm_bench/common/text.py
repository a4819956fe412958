"""Numbers as people read them: on the terminal, in Markdown and in figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MISSING = "-"


def number(value: float | None) -> str:
    """Three decimals; one where they would be noise (a perplexity of 1234.6)."""
    if value is None:
        return MISSING
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def change(summary: Mapping[str, Any] | None) -> str:
    """A paired difference with its interval: "+0.508 [+0.444, +0.567]"."""
    if summary is None or summary["mean"] is None:
        return MISSING
    if summary["ci_low"] is None:
        return f"{signed(summary['mean'])} [no interval]"
    return f"{signed(summary['mean'])} [{signed(summary['ci_low'])}, {signed(summary['ci_high'])}]"


def signed(value: float | None) -> str:
    if value is None:
        return MISSING
    text = number(abs(value))
    if not float(text):
        return text  # no "-0.000"
    return ("-" if value < 0 else "+") + text


def size(num_bytes: float) -> str:
    """Decimal units: 5200000 is "5.2 MB"."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def flop(count: float | None) -> str:
    """Decimal units: 5200000000000 is "5.2 TFLOP"."""
    if count is None:
        return MISSING
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.0f} FLOP" if not unit else f"{count:.1f} {unit}FLOP"
        count /= 1000
    return f"{count:.1f} EFLOP"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(count: int | str, thing: str, verb: str = "") -> str:
    """ "1 client", "38 clients", "0 to 3 replies"; with the verb `have` "1 client has", "38 clients have"."""
    is_one = str(count) == "1"
    return " ".join(filter(None, (str(count), thing if is_one else _several(thing), _of_one(verb) if is_one else verb)))


def part_of(count: int | str, total: int | str, thing: str, verb: str = "") -> str:
    """ "1 of 6 prompts has", "2 of 6 prompts have"."""
    found = f"{count} of {counted(total, thing)}"
    return f"{found} {_of_one(verb) if str(count) == '1' else verb}" if verb else found


def _several(thing: str) -> str:
    return f"{thing[:-1]}ies" if thing.endswith("y") and thing[-2] not in "aeou" else f"{thing}s"


def _of_one(verb: str) -> str:
    """The form of a verb in the plural that goes with one thing."""
    return {"have": "has", "are": "is", "were": "was"}.get(verb, f"{verb}s" if verb else "")


def from_to(counts: Iterable[int]) -> str:
    """ "38", or "4 to 38"; empty without counts."""
    found = sorted(set(counts))
    if not found:
        return ""
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def wrapped(line: str, width: int) -> list[str]:
    """Broken at spaces, continued two columns in; a word wider than `width` stays whole."""
    lines = [""]
    for word in line.split(" "):
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > width:
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines
