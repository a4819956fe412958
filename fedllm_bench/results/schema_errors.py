"""What is wrong with a results.json, in one line that names the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import ValidationError

MISSING, UNKNOWN = "missing", "unexpected_keyword_argument"
# Type of an error of pydantic -> what the value must be, in words of Python.
KINDS = {
    "int_type": "int",
    "float_type": "float",
    "string_type": "str",
    "bool_type": "bool",
    "tuple_type": "list",
    "dict_type": "dict",
    "dataclass_type": "dict",
}


def said(whole: Any, error: ValidationError) -> str:
    """The first error that a value has as the dataclass `whole`."""
    first = _first(error.errors(include_url=False))
    kind, path, value = first["type"], first["loc"], first["input"]
    where = _name(path) or "the payload"
    if kind == MISSING:
        return f"results: the key {where} is missing"
    if kind == UNKNOWN:
        known = sorted(field.name for field in fields(_kind_at(whole, path[:-1])))
        return f"results: the key {where} is unknown; known here: {known}"
    if kind == "literal_error":
        return f"results: {where} is {value!r}; it must be one of {list(get_args(_kind_at(whole, path)))}"
    if kind == "finite_number":
        return f"results: {where} is {value}; numbers must be finite (null where not computed)"
    if kind in KINDS:
        return f"results: {where} is {value!r}; it must be of type {KINDS[kind]}"
    return f"results: {where} is {value!r}: {first['msg']}"


def _first(errors: Sequence[Any], depth: int = 0) -> Any:
    """Of each object first the keys that are missing, then those that are unknown, then its values in their order."""
    of_keys = [error for error in errors if len(error["loc"]) == depth + 1 and error["type"] in (MISSING, UNKNOWN)]
    if of_keys:
        return min(of_keys, key=lambda error: (error["type"] == UNKNOWN, error["loc"][-1]))
    inside = errors[0]["loc"][: depth + 1]
    if len(inside) <= depth:
        return errors[0]
    return _first([error for error in errors if error["loc"][: depth + 1] == inside], depth + 1)


def _name(path: Sequence[int | str]) -> str:
    """ "metrics.heldout.after.n", "data.local_clients[1]"."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def _kind_at(kind: Any, path: Sequence[int | str]) -> Any:
    """The type of the value at `path` in one of the type `kind`."""
    if is_dataclass(kind):
        return _kind_at(get_type_hints(kind)[str(path[0])], path[1:]) if path else kind
    inner = [one for one in get_args(kind) if one not in (NoneType, ...)]
    if get_origin(kind) in (tuple, dict):
        return _kind_at(inner[-1], path[1:])
    return _kind_at(inner[0], path) if NoneType in get_args(kind) else kind
