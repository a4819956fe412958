"""JSON and short texts that a stranger wrote: bounded before they are parsed, and one meaning for every reader."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from fedllm_bench.leaderboard.submission.problems import Refused

DEPTH = 32  # ours have six levels
DIGITS = 18  # of an integer: above, a float or another language's integer cannot hold it
NAME_CHARACTERS, MARKS = 60, 2
# Strings, closed or cut at the end; possessive, so that no input takes more than linear time.
STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
BRACKET = re.compile(r"[\[\]{}]")
HIDDEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks that show nothing
VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180f]")


def loads(content: bytes, where: str) -> Any:
    """The value of a JSON text.

    Raises :class:`Refused` for anything but UTF-8 JSON of at most DEPTH levels, with distinct keys, whole characters
    and finite numbers.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("not-text", f"not UTF-8 ({error.reason})", where) from None
    if _depth(text) > DEPTH:
        raise Refused("deep-json", f"nested more than {DEPTH} deep", where)
    try:
        value = DECODER.decode(text)
    except Refused as error:
        raise Refused(error.problem.code, error.problem.message, where) from None
    except (ValueError, RecursionError) as error:
        raise Refused("not-json", f"not JSON ({str(error)[:80]})", where) from None
    if "\\u" in text and not _is_whole(value):
        raise Refused("not-text", "half a character (a lone surrogate)", where)
    return value


def _depth(text: str) -> int:
    """The deepest nesting of brackets outside strings; an upper bound where the text is no JSON."""
    if text.count("[") + text.count("{") <= DEPTH:
        return 0
    depth = deepest = 0
    for bracket in BRACKET.finditer(STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, depth)
        if deepest > DEPTH:
            break
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused("key-twice", f"the key {twice[:40]!a} stands there twice")
    return value


def _constant(name: str) -> Any:
    raise Refused("not-json", f"{name} is no JSON number")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Refused("not-json", f"the number {digits[:20]} is too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise Refused("not-json", f"an integer of {len(digits)} digits")
    return int(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)


def _is_whole(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_text(text: str, *, lines: bool = False) -> str:
    """`text` if a reader sees all that is in it; with `lines`, of several lines.

    Refuses (ValueError) control, bidirectional, zero-width and unassigned characters, other forms than NFC, blanks
    other than single spaces, and marks piled upon each other.
    """
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError("not in Unicode's form NFC; write it with composed characters")
    for character in text:
        if not _is_shown(character) and not (lines and character == "\n"):
            raise ValueError(
                f"the character U+{ord(character):04X} is not allowed; give letters, digits and signs that show"
            )
    if text != text.strip() or (not lines and "  " in text):
        raise ValueError("blanks at its ends or several together; give single ones between words")
    if re.search(rf"(?:\A|[^M])M{{{MARKS + 1}}}|\AM", "".join(unicodedata.category(c)[0] for c in text)):
        raise ValueError(f"more than {MARKS} marks on a letter, or a mark without one")
    return text


def _is_shown(character: str) -> bool:
    hidden = character in HIDDEN or VARIATION.match(character) is not None
    return not hidden and (character == " " or unicodedata.category(character)[0] not in "CZ")


def checked_name(text: str) -> str:
    """A name of one line with something to read in it, of at most NAME_CHARACTERS characters; else ValueError."""
    if len(text) > NAME_CHARACTERS:
        raise ValueError(f"{len(text)} characters; at most {NAME_CHARACTERS} are allowed")
    if not any(character.isalnum() for character in text):
        raise ValueError("there is no letter or digit in it")
    return checked_text(text)
