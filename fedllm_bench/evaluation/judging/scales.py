"""Ratings in a line that nobody gave: the scale beside a rating, and what a judge only names for comparison.

Judges answer in the language of the question; the words are in verdict_words.toml. A language whose words are not there
never makes a rating higher: what is left over beside another rating makes the line unscored (see verdicts).
"""

from __future__ import annotations

import functools
import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import regex

NEAR = 60  # characters beside a rating that are looked at
SHORTEST_GAP = 15  # characters between the ends of a scale, in a language whose words are not here
SENTENCE_END = regex.compile("[.!?。！？;；]")


@functools.cache
def words(kind: str) -> str:
    """A pattern for any word of a kind in verdict_words.toml."""
    text = resources.files("fedllm_bench.evaluation.judging").joinpath("verdict_words.toml").read_text(encoding="utf-8")
    return "(?:" + "|".join(tomllib.loads(text)[kind]) + ")"


@dataclass(frozen=True)
class ScalePatterns:
    """`out_of`, `to` and `scale_first`: all of what stands between two ratings; the others: what stands beside one."""

    out_of: regex.Pattern[str]
    to: regex.Pattern[str]
    scale_first: regex.Pattern[str]
    is_scale: regex.Pattern[str]
    not_given: regex.Pattern[str]
    ideal_before: regex.Pattern[str]
    ideal_after: regex.Pattern[str]


@functools.cache
def patterns() -> ScalePatterns:
    unit, maximum, scale, linked = (words(kind) for kind in ("units", "maximum", "scales", "is"))
    most = rf"(?:{words('most')} )*"
    beside = r"[\s:：=*_~\"'“«(\[]*\Z"
    joined = r"[\s*_\"'“«(]*\Z"  # a colon after "no" ends what is negated
    articles = rf"(?: {words('articles')})*"
    noun = r"(?:answer|response|reply|score|rating|respuesta|réponse|resposta|ответ\w*)?"

    def compiled(pattern: str) -> regex.Pattern[str]:
        return regex.compile(pattern, regex.IGNORECASE)

    possible = "(?: a possible| a maximum of)?"
    return ScalePatterns(
        out_of=compiled(
            rf"\W*(?:{unit}\W*)?{words('of')}\W*(?:{linked}\W*)?{most}(?:(?:{maximum}|{scale})\W*(?:{linked}\W*)?)*{most}"
        ),
        to=compiled(rf"\W*(?:{unit}\W*)?{words('to')}\W*"),
        scale_first=compiled(rf"\W*{unit}?\W*{words('scale_first')}\W*(?:我?给|得|获得|で)?\W*"),
        is_scale=compiled(rf"(?:[/⁄∕]|\bout of{possible}|{maximum}\W*(?:{linked}\W*)*|\bscale of|\bskala von){beside}"),
        not_given=compiled(rf"(?<!\p{{L}}){words('not_given')}{articles}{joined}"),
        ideal_before=compiled(rf"(?<!(?!\p{{Han}})\p{{L}}){words('ideal_before')}{articles}{beside}"),
        ideal_after=compiled(rf"[\s*_\])]*{noun}\s*{words('ideal_after')}(?!(?!\p{{Han}})\w)"),
    )


@dataclass(frozen=True)
class Rated:
    """A rating that stands in a line, from `start` to `end`."""

    value: float
    start: int
    end: int


class OtherScaleError(Exception):
    """The line names a scale that ends elsewhere than the one that was asked for; the text says where."""


def given(line: str, found: Sequence[Rated], low: float, high: float) -> list[Rated]:
    """Of the ratings in a line those that were given. Raises :class:`OtherScaleError` for a rating on another scale."""
    dropped: set[int] = set()
    for number, (one, other) in enumerate(itertools.pairwise(found)):
        dropped |= {
            number + place for place in _of_scale(line[one.end : other.start], one.value, other.value, low, high)
        }
    kept = [
        one
        for number, one in enumerate(found)
        if number not in dropped
        and not (patterns().is_scale.search(_before(line, one)) or is_negated(line, one.start) or _is_needed(line, one))
    ]
    if len({one.value for one in kept}) > 1:  # "a perfect [[10]]" alone may be a rating
        plain = [one for one in kept if not patterns().ideal_before.search(_before(line, one))]
        kept = plain or kept
    return kept


def is_negated(line: str, start: int) -> bool:
    """Whether "not", "instead of" or the like stands right before a verdict."""
    return patterns().not_given.search(line[max(0, start - NEAR) : start]) is not None


def _before(line: str, one: Rated) -> str:
    return line[max(0, one.start - NEAR) : one.start]


def _is_needed(line: str, one: Rated) -> bool:
    """What another answer would get: "a [[10]] would need sources"."""
    return patterns().ideal_after.match(line[one.end : one.end + NEAR]) is not None


def _of_scale(between: str, one: float, other: float, low: float, high: float) -> tuple[int, ...]:
    """Which of two ratings with `between` between them belong to the scale: places 0 and 1."""
    if other <= one:
        return (0,) if one == high and patterns().scale_first.fullmatch(between) else ()
    if patterns().out_of.fullmatch(between):
        if other != high:
            raise OtherScaleError(f"its scale ends at {other:g}, and not at {high:g}")
        return (1,)
    is_range = patterns().to.fullmatch(between) is not None
    is_short = len(between) <= SHORTEST_GAP and not SENTENCE_END.search(between)
    return (0, 1) if other == high and one <= low and (is_range or is_short) else ()
