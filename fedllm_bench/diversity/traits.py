"""What an answer has more or less of: length, script and formatting, each as a number."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import regex

from fedllm_bench.evaluation.metrics.references import tokens

FENCE = regex.compile(r"^ {0,3}(?:```|~~~)", regex.MULTILINE)
BOLD = regex.compile(r"\*\*(?=\S)[^*\n]+?(?<=\S)\*\*|__(?=\S)[^_\n]+?(?<=\S)__")
HEADING = regex.compile(r"^ {0,3}#{1,6}\s+\S", regex.MULTILINE)
LIST_ITEM = regex.compile(r"^\s*(?:[-*+•]|\(?\d{1,3}[.)])\s+\S", regex.MULTILINE)
LETTER_OR_MARK = regex.compile(r"[\p{L}\p{M}]")
LETTER = regex.compile(r"\p{L}")
SCRIPT_NAMES = [
    "Latin",
    "Cyrillic",
    "Arabic",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Telugu",
    "Devanagari",
    "Bengali",
    "Tamil",
    "Thai",
    "Greek",
    "Hebrew",
    "Georgian",
    "Armenian",
    "Ethiopic",
    "Gujarati",
    "Gurmukhi",
    "Kannada",
    "Khmer",
    "Lao",
    "Malayalam",
    "Myanmar",
    "Sinhala",
]
SCRIPTS = {name: regex.compile(rf"\p{{{name}}}") for name in SCRIPT_NAMES}
OTHER = "other"
Value = Callable[[str, str], float | None]  # (prompt, answer)


@dataclass(frozen=True)
class Trait:
    """`value(prompt, answer)` is None where the answer has none, as the script of an answer without letters."""

    unit: str
    description: str
    value: Value


def _list_items(prompt: str, answer: str) -> float:
    return float(len(LIST_ITEM.findall(_without_code(answer))))


def _headings(prompt: str, answer: str) -> float:
    return float(len(HEADING.findall(_without_code(answer))))


def _bold(prompt: str, answer: str) -> float:
    return float(len(BOLD.findall(_without_code(answer))))


def _code_blocks(prompt: str, answer: str) -> float:
    return float((len(FENCE.findall(answer)) + 1) // 2)  # an answer that was cut off leaves one open


def _without_code(answer: str) -> str:
    """`answer` without fenced code, where a # begins a comment and a * multiplies."""
    return "\n".join(FENCE.split(answer)[::2])


def _latin(prompt: str, answer: str) -> float | None:
    found = scripts(answer)
    return found["Latin"] / found.total() if found else None


def _of_prompt(prompt: str, answer: str) -> float | None:
    """Scripts of the prompt that hold a tenth or more of its letters; a Japanese prompt has several."""
    asked, answered = scripts(prompt), scripts(answer)
    wanted = {name for name, count in asked.items() if count >= asked.total() / 10}
    if not (wanted and answered):
        return None
    return sum(count for name, count in answered.items() if name in wanted) / answered.total()


def scripts(text: str) -> Counter[str]:
    """Letters, with their marks, by script."""
    found: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if name := _script(character):
            found[name] += count
    return found


@functools.lru_cache(maxsize=2**16)
def _script(character: str) -> str:
    """ "" for what is neither a letter nor a script's own mark, as a digit or an accent that all scripts share."""
    if not LETTER_OR_MARK.match(character):
        return ""
    other = OTHER if LETTER.match(character) else ""
    return next((name for name, pattern in SCRIPTS.items() if pattern.match(character)), other)


TRAITS: dict[str, Trait] = {
    "characters": Trait("characters", "length in characters", lambda prompt, answer: float(len(answer))),
    "words": Trait("words", "length in words", lambda prompt, answer: float(len(tokens(answer)))),
    "script_of_prompt": Trait("share of letters", "letters in the scripts of the prompt", _of_prompt),
    "latin_letters": Trait("share of letters", "letters in Latin script", _latin),
    "line_breaks": Trait("line breaks", "line breaks", lambda prompt, answer: float(answer.strip().count("\n"))),
    "list_items": Trait("items", "items of lists", _list_items),
    "headings": Trait("headings", "headings of Markdown", _headings),
    "bold": Trait("passages", "bold passages of Markdown", _bold),
    "code_blocks": Trait("blocks", "fenced blocks of code", _code_blocks),
}
