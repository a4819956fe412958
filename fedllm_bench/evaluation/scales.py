"""Ratings in a line that nobody gave: the scale beside a rating, and what a judge only names for comparison.

Judges answer in the language of the question, so the words are of the suite's eight languages, with German, Japanese,
Korean, Hindi and Turkish beside them. A rule that does not know a word never makes a rating higher: what is left over
beside another rating makes the line unscored (see verdicts).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import regex

SHORTEST_GAP = 15  # characters between the ends of a scale, in a language whose words are not here
UNIT = r"(?:points?|pts?|marks?|stars?|puntos?|pontos?|estrellas?|estrelas?|étoiles?|punkte?n?|sterne?n?|балл\w*|очк\w*|نقط\w*|نقاط|درجات|درجة|పాయింట్\w*|మార్కులు|分|点|점)"
MOST = r"(?:a |an |the |un |une |uns? |um |einem |einer |maximal |possible |total |best |total possible )*"
OF = (
    r"(?:[/⁄∕÷]|out of|of|from|over|in|de|del|d'|sobre|entre|sur|à partir de|em|von|aus|su|из|من|من اصل|من أصل|على|ఔట్ ఆఫ్|满分|滿分|満点|総点|共)"
)
MAXIMUM = r"(?:max(?:imum|imal|imo|\.)?|máx(?:imo|\.)?|maximale?|höchst\w*|최대|最高|最大|максим\w*|макс\.?|الحد الأقصى|الحد الاقصى|اقصى|أقصى|గరిష్\w*|满分|滿分|満点)"
SCALE = r"(?:scale|range|escala|rango|échelle|echelle|skala|шкал\w*|диапазон\w*|مقياس|سلم|స్కేల్\w*|范围|分制|等级)"

OUT_OF = regex.compile(
    rf"\W*(?:{UNIT}\W*)?(?:{OF}\W*)(?:{MOST})(?:{MAXIMUM}\W*(?:of|de|von|для|من|为|是|is)?\W*)?(?:{SCALE}\W*(?:of|de|von|из|من)?\W*)?\W*",
    regex.IGNORECASE,
)
TO = r"(?:to|through|till|until|and|a|à|al|au|e|y|et|ao|até|hasta|bis|und|до|и|الى|إلى|و|నుండి|నుంచి|到|至|から|에서|से)"
RANGE = regex.compile(rf"\W*(?:{UNIT}\W*)?(?:[-–—~～…]|\.\.+|{TO})\W*", regex.IGNORECASE)
SCALE_FIRST = regex.compile(
    rf"\W*(?:{UNIT})?\W*(?:కి|కు|లో|కిగాను|满点|滿點|満点中?|点満点中?|满分中?|分满分|分制|分中|中|만점에|만점 중|में से|üzerinden)\W*(?:得|获得|で)?\W*",
    regex.IGNORECASE,
)
IS_SCALE = regex.compile(
    rf"(?:[/⁄∕]|\bout of(?: a possible| a maximum of)?|{MAXIMUM}(?: (?:score|rating|points?|possible|of|is|de|es|est|é|von|ist|балл|это|هو)|为|是)*|\bscale of|\bskala von)"
    r"[\s:：=*_~(\[]*\Z",
    regex.IGNORECASE,
)
NOT_GIVEN = regex.compile(
    r"(?:\b(?:not|isn't|no longer|never|nor|instead of|rather than|short of|pas|non|nicht|kein\w*|statt|anstatt|plutôt que|au lieu de|en (?:lugar|vez) de|não|no es|em vez de|не|вместо|ليس|బదులు)"
    r"(?: (?:quite|really|even|yet|just|an?|the|un|une|um|ein|eine|einen|de))*|不是|而不是|并非|بدلا من|بدلاً من)[\s:：*_\"'“«(]*\Z",
    regex.IGNORECASE,
)
IDEAL_BEFORE = regex.compile(
    r"(?:\b(?:perfect|full|ideal|top|best|flawless|highest|for|to (?:get|earn|reach|deserve|merit)|deserves?|needs?|than|above|below|under|toward|towards|near|"
    r"perfecto|perfecta|ideal|para|que|parfaite?|idéale?|pour|perfeit[oa]|для|до|идеальн\w+|высш\w+|perfekte\w*|für|als)(?: (?:an?|the|score|rating|of|un|une|um|uma|note|nota|de))*|完美的?|理想的?|مثالي|كامل)[\s:：*_]*\Z",
    regex.IGNORECASE,
)
IDEAL_AFTER = regex.compile(
    r"[\s*_\])]*(?:answer|response|reply|score|rating|respuesta|réponse|resposta|ответ\w*)?\s*(?:"
    r"would (?:have )?(?:need|requir|demand|tak|includ|cit|mean|show|explain|be reserved)\w*|requires?|needs?|is (?:for|reserved|only)|demands?"
    r"|(?:requeriría|necesitaría|exigiría|exigirait|demanderait|nécessiterait|exigiria|precisaria|requereria|потребовал\w*|требует|würde \w+ brauchen|bräuchte|erfordert)\b"
    r"|كان سي\w+|سيتطلب|يتطلب|需要|才)",
    regex.IGNORECASE,
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
        dropped |= {number + place for place in _of_scale(line[one.end : other.start], one.value, other.value, low, high)}
    kept = [
        one
        for number, one in enumerate(found)
        if number not in dropped and not (IS_SCALE.search(_before(line, one)) or is_negated(line, one.start) or _is_needed(line, one))
    ]
    if len({one.value for one in kept}) > 1:  # "a perfect [[10]]" alone may be a rating
        plain = [one for one in kept if not IDEAL_BEFORE.search(_before(line, one))]
        kept = plain or kept
    return kept


def is_negated(line: str, start: int) -> bool:
    """Whether "not", "instead of" or the like stands right before a verdict."""
    return NOT_GIVEN.search(line[max(0, start - 60) : start]) is not None


def _before(line: str, one: Rated) -> str:
    return line[max(0, one.start - 60) : one.start]


def _is_needed(line: str, one: Rated) -> bool:
    """What another answer would get: "a [[10]] would need sources"."""
    return IDEAL_AFTER.match(line[one.end : one.end + 60]) is not None


def _of_scale(between: str, one: float, other: float, low: float, high: float) -> tuple[int, ...]:
    """Which of two ratings with `between` between them belong to the scale: places 0 and 1."""
    if other <= one:
        return (0,) if one == high and SCALE_FIRST.fullmatch(between) else ()
    if OUT_OF.fullmatch(between):
        if other != high:
            raise OtherScaleError(f"its scale ends at {other:g}, and not at {high:g}")
        return (1,)
    is_range = RANGE.fullmatch(between) is not None
    is_short = len(between) <= SHORTEST_GAP and not regex.search("[.!?。！？;；]", between)
    return (0, 1) if other == high and one <= low and (is_range or is_short) else ()
