"""The words of --set as keys and values."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any, get_args

from fedllm_bench.common.errors import UserError, shown
from fedllm_bench.config.run import option_types

OPTION = "--set"


class FileWord(str):
    """A word of --set that stands in a file: `source` says where, for what is said of a wrong value."""

    source: str

    def __new__(cls, text: str, source: str = OPTION) -> FileWord:
        word = super().__new__(cls, text)
        word.source = source
        return word

    def removeprefix(self, prefix: str, /) -> FileWord:
        return FileWord(super().removeprefix(prefix), self.source)


def source_of(word: str) -> str:
    """Where a word of --set was given: the option itself, or a file."""
    return word.source if isinstance(word, FileWord) else OPTION


def assignment(text: str) -> tuple[str, Any]:
    """Key and value of "local.lr=1e-4". The value is TOML, but as it stands where the option is text."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise UserError(f"--set {shown(text)}: write KEY=VALUE, as in --set local.lr=1e-4")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes of a command line that are no letters
        raise UserError(f"--set {shown(text)}: it is not UTF-8; give letters that can be read")
    kind = option_types().get(key)
    arguments = get_args(kind)
    parsed = _toml_value(value)
    if value == "none" and type(None) in arguments and str not in arguments:
        return key, None  # not given: takes back what a preset gives
    if any(of[1:] == (...,) for of in (arguments, *map(get_args, arguments))):  # names, or names or none
        return key, comma_separated(parsed) if isinstance(parsed, str) else parsed
    if kind is str or str in arguments:  # a revision of digits stays text
        return key, parsed if isinstance(parsed, str) else value
    return key, parsed


def _toml_value(text: str) -> Any:
    """`text` as a TOML value; as a number where only TOML is strict (".5"); else as it is."""
    try:
        table = tomllib.loads(f"value = {text}")
    except ValueError:  # no TOML, or an int of more digits than Python reads
        try:
            return float(text)
        except ValueError:
            return text
    return table["value"] if set(table) == {"value"} else text


def comma_separated(names: str | Sequence[str]) -> list[str]:
    parts = names.split(",") if isinstance(names, str) else names
    return [part.strip() for part in parts if part.strip()]
