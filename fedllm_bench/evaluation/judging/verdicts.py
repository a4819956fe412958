"""What a judge's reply says: a rating as "[[7]]" or a winner as "[[A]]", the form its prompt asked for.

Only a reply is read here. Its thoughts are not part of it (thoughts.py). The last line with a verdict counts: what
comes before is explanation, as the prompts of MT-Bench ask (Zheng et al., 2023, arXiv:2306.05685, appendix A). Of
several verdicts in that line the scale and what is only named go (scales.py); of two that are left the last one counts
where the line tells that it is meant ("..., but in the end", "Rating:"), and otherwise neither does.

A verdict in quotation marks, in a block quote or in code counts where the reply has no other and ends with it, unless
it repeats what was judged. What is not a verdict becomes None with a reason, never a number.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import regex

from fedllm_bench.evaluation.judging import scales
from fedllm_bench.evaluation.judging.quotations import Quotations, ReplyLine
from fedllm_bench.evaluation.thoughts import said

V = TypeVar("V")
Winner = Literal["A", "B", "tie"]
Found = Sequence["regex.Match[str]"]
Kept = Callable[[str, Found], Found]  # a line and the verdicts in it -> those that were given

NUMBER = r"[+-]?\d{1,6}(?:[.,٫]\d{1,6})?"  # \d: the digits of every script
RATING = regex.compile(rf"\[\[\s*({NUMBER})\s*\]\]")
WINNER = regex.compile(r"\[\[\s*([ABCabc])\s*\]\]")
LOOKALIKES = str.maketrans("АВСΑΒас", "ABCABac")  # Cyrillic and Greek letters that a judge may write instead
OTHER_NUMBERS = regex.compile(r"\p{No}")  # raised, circled and the like: NFKC would make digits of them
MOST_SEEN = 50  # a reply with more quoted verdicts than this at its end has none of its own
WINNERS: dict[str, Winner] = {"A": "A", "B": "B", "C": "tie"}

ALONE = regex.compile(r"[.!?。！？…][\s*_]*\Z")  # before a verdict that is a sentence of its own
SENTENCE_END = regex.compile(r"[.!?。！？][\s\"'”»]+")
SEVERAL = "the last line with a verdict has several, and nothing says which one is meant"


@dataclass(frozen=True)
class Words:
    """`labelled`, `compared`: what stands right before a verdict; `turn`: between two; `reports`: somewhere before."""

    label: regex.Pattern[str]
    labelled: regex.Pattern[str]
    turn: regex.Pattern[str]
    compared: regex.Pattern[str]
    reports: regex.Pattern[str]


@functools.cache
def words() -> Words:
    label, turns, whole = scales.words("labels"), scales.words("turns"), r"(?!(?!\p{Han})\w)"
    clause = (
        r"(?:^|[.,;:!?…。，；、—–-])[\s*_\"'”»)]*(?:[^\s，。；、]{0,6}(?=\p{Han}))?"  # in Chinese words stand before it
    )
    arrow = r"\A[\s*_]*(?:→|->|=>)[\s*_]*\Z"
    reports = rf"\b{scales.words('reports')}\b|{scales.words('reports_unspaced')}"
    return Words(
        label=regex.compile(rf"\b{label}\b", regex.IGNORECASE),
        labelled=regex.compile(rf"(?<!\p{{L}}){label}(?: is| es| est| é| ist)?[\s*_:：=\-–—]*\Z", regex.IGNORECASE),
        turn=regex.compile(rf"{clause}{turns}{whole}|{arrow}", regex.IGNORECASE),
        compared=regex.compile(rf"(?<!(?!\p{{Han}})\w){scales.words('compared')}[\s*_]*\Z", regex.IGNORECASE),
        reports=regex.compile(reports, regex.IGNORECASE),
    )


@dataclass(frozen=True)
class Verdict(Generic[V]):
    """`value` is None where the reply has no verdict, and `reason` says why."""

    value: V | None
    reason: str = ""


def rating(text: str, low: float = 1, high: float = 10, judged: Sequence[str] = ()) -> Verdict[float]:
    """The last rating of a reply; unscored where that one is outside [low, high].

    `judged`: the texts that were judged; a quoted rating that one of them has is a quotation.
    """

    def kept(line: str, found: Found) -> Found:
        rated = [scales.Rated(_value(match), *match.span()) for match in found]
        starts = {one.start for one in scales.given(line, rated, low, high)}
        return [match for match in found if match.start() in starts]

    try:
        match, reason = _last(RATING, _plain(text), kept, [_plain(one) for one in judged])
    except scales.OtherScaleError as error:
        return Verdict(None, str(error))
    if match is None:
        return Verdict(None, reason)
    value = _value(match)
    return (
        Verdict(value) if low <= value <= high else Verdict(None, f"its rating {value:g} is not in {low:g} to {high:g}")
    )


def pair_verdict(text: str, judged: Sequence[str] = ()) -> Verdict[Winner]:
    """Which of two answers the reply prefers: "A", "B", or "tie" for "[[C]]"."""

    def kept(line: str, found: Found) -> Found:
        return [match for match in found if not scales.is_negated(line, match.start())]

    match, reason = _last(WINNER, _winners(text), kept, [_winners(one) for one in judged])
    return Verdict(None, reason) if match is None else Verdict(WINNERS[match[1].upper()])


def _plain(text: str) -> str:
    """Compatible forms as plain ones, and one kind of line end."""
    return "\n".join(unicodedata.normalize("NFKC", OTHER_NUMBERS.sub("\ufffd", text)).splitlines())


def _winners(text: str) -> str:
    return _plain(text).translate(LOOKALIKES)


def _value(match: regex.Match[str]) -> float:
    return float(regex.sub("[,٫]", ".", match[1]))


def _last(
    form: regex.Pattern[str], text: str, kept: Kept, judged: Sequence[str]
) -> tuple[regex.Match[str] | None, str]:
    """The last verdict of this form; None with a reason where there is none."""
    reply = said(text)
    if reply.why_none or not reply.text.strip():
        return None, "the judge's reply is empty" + (": it ended within its thought" if reply.is_cut else "")
    if reply.is_cut:
        return None, "the judge's reply ended within its thought"
    quotations, seen, is_quoted = Quotations.of(reply.text), 0, False
    for line in reversed(quotations.lines):
        found = list(form.finditer(line.text))[-MOST_SEEN:]
        own = [match for match in found if not quotations.holds(line, *match.span())]
        if given := kept(line.text, own):
            return _decided(line.text, given)
        seen, is_quoted = seen + len(found), is_quoted or len(own) < len(found)
        if seen >= MOST_SEEN:
            break
    match = _quoted_at_the_end(form, quotations, kept, judged)
    return match, "" if match else "the judge only quotes a verdict" if is_quoted else "no verdict in the judge's reply"


def _decided(line: str, given: Found) -> tuple[regex.Match[str] | None, str]:
    """The verdict of a line: its only one, or the last of several where the line tells that this is meant."""
    last = given[-1]
    others = [match for match in given if match[1].casefold() != last[1].casefold()]
    if not others:
        return last, ""
    between, lead = line[others[-1].end() : last.start()], line[: last.start()][-80:]
    is_meant = ALONE.search(lead) or words().labelled.search(lead) or words().turn.search(between)
    is_last = not regex.search(r"\w", line[last.end() :][:200])
    return (last, "") if is_meant and is_last and not words().compared.search(lead) else (None, SEVERAL)


def _quoted_at_the_end(
    form: regex.Pattern[str], quotations: Quotations, kept: Kept, judged: Sequence[str]
) -> regex.Match[str] | None:
    """The verdict in quotation marks or code with which a reply ends, in the judge's own words."""
    lines = [line for line in quotations.lines if line.text.strip() and line.kind != "fence"]
    found = list(form.finditer(lines[-1].text)) if lines else []
    if not 0 < len(found) < MOST_SEEN:
        return None
    last = lines[-1]
    given = [match for match in kept(last.text, found) if quotations.holds(last, *match.span())]
    is_end = not regex.search(r"\w", last.text[found[-1].end() :])
    if not is_end or len({match[1] for match in given}) != 1 or not _is_balanced(last.text):
        return None
    match = given[-1]
    is_repeated = any(match[1] == one[1] for text in judged for one in form.finditer(text))
    return None if is_repeated or words().reports.search(_lead(lines, match.start())) else match


def _lead(lines: Sequence[ReplyLine], start: int) -> str:
    """The sentence that leads to a place in the last line; of the line before, if it goes on, where there is none."""
    lead: str = SENTENCE_END.split(lines[-1].text[:start])[-1]
    if len(lines) == 1 or regex.search(r"\w", _unlabelled(lead)):
        return lead
    before = lines[-2].text.rstrip()
    return "" if before[-1:] in ".!?。！？" else str(SENTENCE_END.split(before)[-1])


def _unlabelled(lead: str) -> str:
    plain: str = words().label.sub("", lead)
    return plain


def _is_balanced(line: str) -> bool:
    """Whether the quotation marks of a line are all of its own: a quotation may have begun in an earlier line."""
    return all(sum(map(line.count, marks)) % 2 == 0 for marks in ('"', "“”„", "«»", "‹›", "「」", "『』"))
