"""The words and sentence frames of the mini world, read from lexicon.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Language:
    """Sentence frames of one language; `styles` are (suffix of the prompt, frame of the answer)."""

    code: str  # ISO 639-3, as in Aya's language_code
    name: str  # English name, as in Aya's language column
    endonym: str
    me: str
    ask: tuple[str, ...]
    tell: str
    sum: str
    translate: str
    list: str
    number: str
    say: str
    styles: tuple[tuple[str, str], ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    languages: tuple[Language, ...]
    values: tuple[tuple[tuple[str, ...], ...], ...]  # [relation][value][language]

    def word(self, relation: int, value: int, language: int) -> str:
        return self.values[relation][value][language]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@cache
def lexicon() -> Lexicon:
    """The lexicon of the package, read once."""
    text = (files("fedllm_bench.mini") / "lexicon.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    languages = tuple(Language(**{key: _tuples(value) for key, value in row.items()}) for row in table["languages"])
    values = tuple(tuple(tuple(words) for words in relation_values) for relation_values in table["values"].values())
    return Lexicon(languages, values)
