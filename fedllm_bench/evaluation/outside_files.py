"""Files of JSON that were made elsewhere: read with bounds, each object with the place where it stands.

All of it was written by others: every value is checked before it is used. Messages begin with `where`, the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common import foreign
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import RepeatedKey, unique_keys

EXPECTED = "one JSON object a line, or one JSON array, is expected"
MOST_BYTES = 2**30  # of a file, which is read whole
MOST_OF_LINE = 2**25  # characters; thousands of times an answer
MOST_OBJECTS = 1_000_000
Value = Mapping[str, Any]
KINDS = {"NoneType": "null", "bool": "true or false", "int": "a number", "float": "a number", "str": "a text",
         "list": "a list", "dict": "an object"}  # fmt: skip


def objects_of(path: Path, where: str) -> Iterator[tuple[str, Value]]:
    """(where it stands, object) of a JSON array, or of JSON lines. Raises a :class:`UserError` for anything else."""
    text = text_of(path, where)
    found = _of_array(text, where) if text.lstrip().startswith("[") else _of_lines(text, where)
    for number, (place, value) in enumerate(found, 1):
        if number > MOST_OBJECTS:
            raise UserError(f"{where}: more than {MOST_OBJECTS:,} objects; give a smaller file")
        if not isinstance(value, dict):
            raise UserError(f"{place}: {kind_of(value)}, not an object")
        yield place, value


def _of_array(text: str, where: str) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(parsed(text, where, EXPECTED), 1):
        yield f"{where}, entry {number}", value


def _of_lines(text: str, where: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{where}, line {number}"
        if len(line) > MOST_OF_LINE:
            raise UserError(f"{place}: more than {MOST_OF_LINE:,} characters; no answer is so long")
        if line.strip():
            yield place, parsed(line, place, EXPECTED)


def text_of(path: Path, where: str) -> str:
    """A file that was made elsewhere. Raises a :class:`UserError`, which begins with `where`, for what is no text."""
    if path.is_dir():
        raise UserError(f"{where}: a folder, not a file; give the file in it")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{where}: no plain file; give a file")
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or 'it cannot be read'}; give a file") from None
    if content is None:
        raise UserError(f"{where}: more than {MOST_BYTES} bytes; give a smaller file")
    if found := foreign.told(content):
        raise UserError(f"{where}: {found}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def parsed(text: str, where: str, advice: str) -> Any:
    """A JSON value. Raises a :class:`UserError`, which begins with `where`, for what is none or has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except RepeatedKey as error:
        raise UserError(f"{where}: an object has {error}; rename or remove one") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no JSON ({first_line(error)[:100]}); {advice}") from None


def keys_shown(value: Value) -> str:
    """The first keys of an object, for a message."""
    return ", ".join(ascii(key)[1:-1][:30] for key in list(value)[:8]) or "none"


def kind_of(value: Any) -> str:
    """What a value of JSON is, for a message."""
    return KINDS[type(value).__name__]


def text_value(value: Any, what: str) -> str:
    """A text of whole characters. Raises ValueError for anything else, as null or a number."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {kind_of(value)}, not a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} has half a character (a lone surrogate)")
    return value


def id_value(value: Any) -> str:
    """The id of a question, a text or a whole number. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"the id of the question is {kind_of(value)}, not a text or a whole number")
    return text_value(str(value), "the id of the question")


def name_value(value: Any, what: str) -> str:
    """The name of a model or of a judge, which is shown and written. Raises ValueError for anything else."""
    if not text_value(value, what).strip() or not value.isprintable():
        raise ValueError(f"{what} is {ascii(value)[:60]}, not a name")
    return str(value)
