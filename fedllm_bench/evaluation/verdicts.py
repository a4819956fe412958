"""What a judge's reply says: a rating as "[[7]]" or a winner as "[[A]]", the form its prompt asked for.

Only a reply is read here, never the answer it judges. The last verdict counts: what comes before is explanation, as the
prompts of MT-Bench ask (Zheng et al., 2023, arXiv:2306.05685, appendix A). A verdict that stands in quotation marks, in
a block quote or in code repeats somebody's words, so it counts only where it is all of the reply's last line. What is
not a verdict becomes None with a reason, never a number.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

V = TypeVar("V")
Winner = Literal["A", "B", "tie"]

NUMBER = r"[+-]?\d{1,6}(?:[.,٫]\d{1,6})?"  # \d: the digits of every script
RATING = re.compile(rf"\[\[\s*({NUMBER})\s*\]\]")
WINNER = re.compile(r"\[\[\s*([ABCabc])\s*\]\]")
LOOKALIKES = str.maketrans("АВСΑΒ", "ABCAB")  # Cyrillic and Greek capitals that a judge may write instead
MOST_SEEN = 50  # a reply with more quoted verdicts than this at its end has none of its own
WINNERS: dict[str, Winner] = {"A": "A", "B": "B", "C": "tie"}

THOUGHT = re.compile(r"\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
FENCE = re.compile(r"^\s*(?:```|~~~)")
SCALE = re.compile(r"(?:/|\bout of)\s*[*_]*$", re.IGNORECASE)  # "[[7]]/[[10]]": the second is the scale
PAIRS = (("“", "”"), ("„", "“"), ("«", "»"), ("「", "」"), ("『", "』"), ("‘", "’"))
MARKS = r"""\s*_#`"'“”„«»「」『』‘’"""
ALONE = re.compile(rf"[{MARKS}]*(?:[^\W\d][\w \-]{{0,40}}[:：])?[{MARKS}]*\[\[[^\[\]]*\]\][{MARKS}.!。]*")


@dataclass(frozen=True)
class Verdict(Generic[V]):
    """`value` is None where the reply has no verdict, and `reason` says why."""

    value: V | None
    reason: str = ""


def rating(text: str, low: float = 1, high: float = 10) -> Verdict[float]:
    """The last rating of a reply; unscored where that one is outside [low, high]."""
    found, reason = _last(RATING, unicodedata.normalize("NFKC", text))
    if found is None:
        return Verdict(None, reason)
    value = float(re.sub("[,٫]", ".", found))
    if not low <= value <= high:
        return Verdict(None, f"its rating {value:g} is not in {low:g} to {high:g}")
    return Verdict(value)


def pair_verdict(text: str) -> Verdict[Winner]:
    """Which of two answers the reply prefers: "A", "B", or "tie" for "[[C]]"."""
    found, reason = _last(WINNER, unicodedata.normalize("NFKC", text).translate(LOOKALIKES))
    return Verdict(None, reason) if found is None else Verdict(WINNERS[found.upper()])


def _last(form: re.Pattern[str], text: str) -> tuple[str | None, str]:
    """What the last verdict of this form says; None with a reason where there is none."""
    spoken = THOUGHT.sub("", text, count=1) if text.lstrip().startswith("<think>") else text
    if not spoken.strip():
        return None, "the judge's reply is empty"
    found = list(itertools.islice(_backwards(form, spoken), MOST_SEEN))
    for line, quoted, match in found:
        if not quoted and not SCALE.search(line[: match.start()][-20:]) and not _in_quotes(line, match):
            return match[1], ""
    alone = form.search(_last_line(spoken)) if ALONE.fullmatch(_last_line(spoken)) else None
    if alone is not None:
        return alone[1], ""
    return None, "the judge only quotes a verdict" if found else "no verdict in the judge's reply"


def _backwards(form: re.Pattern[str], text: str) -> Iterator[tuple[str, bool, re.Match[str]]]:
    """What has the form of a verdict, the last first: its line, whether all of the line is quoted, the match."""
    lines, fences, fenced = text.splitlines(), [], False
    for line in lines:
        fenced ^= bool(FENCE.match(line))
        fences.append(fenced)
    for line, in_code in zip(reversed(lines), reversed(fences), strict=True):
        for match in reversed(list(form.finditer(line))):
            yield line, in_code or line.lstrip().startswith(">"), match


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not FENCE.match(line)]
    return lines[-1] if lines else ""


def _in_quotes(line: str, match: re.Match[str]) -> bool:
    before, after = line[: match.start()], line[match.end() :]
    for mark in ('"', "`"):  # the same mark opens and closes; a quotation may have begun in an earlier line
        if (before.count(mark) % 2 and mark in after) or after.startswith(mark):
            return True
    if before.endswith("'") and after.startswith("'"):
        return True
    return any(before.rfind(left) > before.rfind(right) and right in after for left, right in PAIRS)
