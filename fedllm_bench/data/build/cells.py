"""What a cell means whose values travelled through another tool: JSON as text, dicts of lists, 0 and 1 for booleans.

Only forms with one meaning are read. Everything else is a :class:`Unclear`: a cell that decides which rows stay must
never be taken for "no".
"""

from __future__ import annotations

import ast
import json
from typing import Any

from fedllm_bench.common.files import RepeatedKey, unique_keys
from fedllm_bench.data.build.columns import plain_value

MAX_DEPTH = 20
MAX_PYTHON_CHARACTERS = 2**17  # ast.literal_eval runs no code, but it takes a hundred times the memory of its text
WORDS = {"": None, "true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
FLAGGED, CATEGORIES = "flagged", "categories"
OWN_KEYS = (FLAGGED, CATEGORIES, "category_scores", "category_applied_input_types")  # of OpenAI's moderation


class Unclear(ValueError):
    """A cell in no form that is known; says which part of it is not."""


def is_flagged(value: Any, depth: int = 0) -> bool | None:
    """Whether a flag is up: a boolean itself, or any `flagged` in a record, for a row, a turn or a classifier.

    Of a record whose `flagged` is missing or blank, any of its `categories`. None for a null or an empty list, which
    say nothing.
    Raises :class:`Unclear` for a form that is not known.
    """
    value = opened(value, depth)
    if isinstance(value, dict):
        return _record_is_flagged(value, depth + 1)
    return _any([is_flagged(item, depth + 1) for item in value]) if isinstance(value, list) else _boolean(value)


def _any(found: list[bool | None]) -> bool | None:
    """Of a list rather than of an iterator: every part is looked at, for those that are unclear."""
    said = [one for one in found if one is not None]
    return any(said) if said else None


def _record_is_flagged(record: dict[Any, Any], depth: int) -> bool | None:
    known = {key: value for key, value in record.items() if value is not None}
    nested = [value for key, value in known.items() if key not in OWN_KEYS and isinstance(value, dict | list)]
    if FLAGGED in known or CATEGORIES in known:
        own = is_flagged(known.get(FLAGGED), depth)
        own = _any_category(known.get(CATEGORIES), depth) if own is None else own
        return _any([own, *(is_flagged(value, depth) for value in nested if _mentions_flag(value, depth))])
    records = [item for value in nested for item in (value if isinstance(value, list) else [value])]
    if known and not all(isinstance(item, dict | None) for item in records or [0]):
        raise Unclear(f"a record without 'flagged' and 'categories'; it has {sorted(map(str, known))[:8]}")
    return _any([is_flagged(item, depth) for item in records])


def _mentions_flag(value: Any, depth: int) -> bool:
    if depth > MAX_DEPTH or not isinstance(value, dict | list):
        return depth > MAX_DEPTH
    parts = value.values() if isinstance(value, dict) else value
    return FLAGGED in value or any(_mentions_flag(part, depth + 1) for part in parts)


def _any_category(value: Any, depth: int) -> bool | None:
    """Whether any boolean is true in {category: boolean}, in a list of such, or in {category: list of booleans}."""
    value = opened(value, depth)
    parts = list(value.values()) if isinstance(value, dict) else value
    return _any([_any_category(part, depth + 1) for part in parts]) if isinstance(parts, list) else _boolean(value)


def _boolean(value: Any) -> bool | None:
    """A null, a boolean, or 0 or 1."""
    if value is None or value in (0, 1):
        return None if value is None else bool(value)
    raise Unclear(f"{type(value).__name__} {str(value)[:40]!r}, which is neither true nor false")


def opened(value: Any, depth: int = 0) -> Any:
    """The value behind text, and behind numpy's, Arrow's and Spark's ways of holding it."""
    if depth > MAX_DEPTH:
        raise Unclear(f"lists or records nested more than {MAX_DEPTH} deep")
    value = plain_value(value)
    while isinstance(value, str):  # some tools encode twice
        value = _opened_text(value)
    return record_of(value)


def record_of(value: Any) -> Any:
    """A list of pairs as a record: a column of type map, as Spark writes them. Any other value as it is."""
    if not (isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value)):
        return value
    try:
        return unique_keys(value)
    except (RepeatedKey, TypeError):  # no record; whoever wanted one refuses the list
        return value


def _opened_text(text: str) -> Any:
    """What text stands for: a boolean, JSON, or what `str` makes of a Python value; None for blank text."""
    word = text.strip()
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    try:
        return json.loads(word, object_pairs_hook=unique_keys)
    except RepeatedKey as error:
        raise Unclear(f"JSON with {error}") from error
    except (ValueError, RecursionError):
        return _python(word)


def _python(text: str) -> Any:
    """What pandas and csv writers leave of lists and dicts: "[{'flagged': True}]"."""
    if len(text) > MAX_PYTHON_CHARACTERS or text[:1] not in ("[", "{", "N"):
        raise Unclear(f"text {text[:40]!r}, which is neither JSON nor true or false")
    try:
        tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                unique_keys([(ast.literal_eval(key) if key else "**", None) for key in node.keys])
        return ast.literal_eval(tree)
    except RepeatedKey as error:
        raise Unclear(f"a Python dict with {error}") from error
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise Unclear(f"text {text[:40]!r}, which is neither JSON nor a Python literal") from error
