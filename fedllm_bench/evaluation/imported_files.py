"""Files of answers that other tools write, read as rows: whose question, and what was said to each of its turns.

    FastChat's model_answer   {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["...", "..."]}]}
    alpaca_eval's outputs     [{"instruction": "...", "output": "...", "generator": "m"}, ...]
    lm-eval's samples         {"doc": {...}, "resps": [["..."]], "filtered_resps": ["..."]}
    any other                 {"id": "81", "text": "..."}, or "turns": ["...", "..."] in place of "text"

JSON lines and a JSON array are read alike. All of it was written by others: every value is checked before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import foreign
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import RepeatedKey, unique_keys

ID_KEYS = ("question_id", "item_id", "id")
TEXT_KEYS = ("text", "answer", "output", "response")
EXPECTED = "one JSON object a line, or one JSON array, is expected"
MOST_BYTES = 2**30  # of a file, which is read whole
Value = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImportedAnswer:
    """One answer: `turns` to the question with one of `texts` as its first turn, else with one of `ids`.

    `model` is who answered, "" where the file does not say; `more` counts other answers to it, which are left out.
    """

    ids: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    turns: tuple[str, ...]
    model: str = ""
    more: int = 0

    @property
    def name(self) -> str:
        """Of its question, for a message."""
        return (*self.ids, *self.texts, "?")[0]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A format: how it is called, the keys that tell it, and how a row is read."""

    name: str
    keys: Sequence[Sequence[str]]  # one key of each
    read: Callable[[Value], ImportedAnswer]

    def fits(self, value: Value) -> bool:
        return all(any(key in value for key in any_of) for any_of in self.keys)


def read_rows(path: Path) -> tuple[str, list[ImportedAnswer]]:
    """The format's name, and the rows. Raises a :class:`UserError` that names the line for what is no such file."""
    values = list(_values(path))
    if not values:
        raise UserError(f"--import {path}: there is no answer in it")
    form = next((form for form in FORMS if form.fits(values[0][1])), None)
    if form is None:
        known = "; ".join(f"{form.name} ({', '.join('|'.join(keys) for keys in form.keys)})" for form in FORMS)
        raise UserError(f"--import {path}: its keys are {_shown(values[0][1])}; known forms are {known}")
    return form.name, [_row(form, value, f"--import {path}, {where}") for where, value in values]


def _row(form: Form, value: Value, where: str) -> ImportedAnswer:
    if not form.fits(value):
        wanted = ", ".join("|".join(keys) for keys in form.keys)
        raise UserError(f"{where}: its keys are {_shown(value)}; {form.name} has {wanted}")
    try:
        return form.read(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _shown(value: Value) -> str:
    return ", ".join(ascii(key)[1:-1][:30] for key in list(value)[:8]) or "none"


# --- JSON


def _values(path: Path) -> Iterator[tuple[str, Value]]:
    """(where it stands, object) of a JSON array, or of JSON lines."""
    text = text_of(path, f"--import {path}")
    if text.lstrip().startswith("["):
        for number, value in enumerate(parsed(text, f"--import {path}", EXPECTED), 1):
            yield f"entry {number}", _object(value, f"--import {path}, entry {number}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"--import {path}, line {number}"
            yield f"line {number}", _object(parsed(line, where, EXPECTED), where)


def text_of(path: Path, where: str) -> str:
    """A file that was made elsewhere. Raises a :class:`UserError`, which begins with `where`, for what is no text."""
    if path.is_dir():
        raise UserError(f"{where}: a folder, not a file; give the file in it")
    try:
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


def _object(value: Any, where: str) -> Value:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON {type(value).__name__}, not an object")
    return value


# --- rows


def _text(value: Any, what: str) -> str:
    """A text of whole characters. Raises ValueError for anything else, as null or a number."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {type(value).__name__}, not text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} has half a character (a lone surrogate)")
    return value


def _turns(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} is no list of texts")
    return tuple(_text(turn, what) for turn in value)


def _id(value: Value) -> str:
    found = next((value[key] for key in ID_KEYS if key in value), None)
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"the id of the question is {type(found).__name__}, not text or a whole number")
    return _text(str(found), "the id of the question")


def _model(value: Value, key: str) -> str:
    return _text(value.get(key) or "", key)


def _fastchat(value: Value) -> ImportedAnswer:
    choices = value["choices"]
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("choices is no list of objects")
    turns = _turns(choices[0].get("turns"), "choices[0].turns")
    return ImportedAnswer(ids=(_id(value),), turns=turns, model=_model(value, "model_id"), more=len(choices) - 1)


def _alpaca(value: Value) -> ImportedAnswer:
    texts = (_text(value["instruction"], "instruction"),)
    return ImportedAnswer(texts=texts, turns=(_text(value["output"], "output"),), model=_model(value, "generator"))


def _plain(value: Value) -> ImportedAnswer:
    key = next(key for key in ("turns", *TEXT_KEYS) if key in value)
    turns = _turns(value[key], key) if isinstance(value[key], list) else (_text(value[key], key),)
    return ImportedAnswer(
        ids=(_id(value),), turns=turns, model=_model(value, "model_id" if "model_id" in value else "model")
    )


def _lm_eval(value: Value) -> ImportedAnswer:
    """What the model said stands in `resps`; `filtered_resps` may be a part of it."""
    doc = value["doc"]
    if not isinstance(doc, dict):
        raise ValueError("doc is no object")
    said = value["resps"] if "resps" in value else value["filtered_resps"]
    while isinstance(said, list) and said:  # of one request, of one repeat
        said = said[0]
    ids = tuple(str(doc[key]) for key in ID_KEYS if isinstance(doc.get(key), str | int))
    texts = tuple(one for one in doc.values() if isinstance(one, str))
    return ImportedAnswer(ids=ids, texts=texts, turns=(_text(said, "resps (log-likelihoods are no answers)"),))


FORMS = (
    Form(name="FastChat's model_answer", keys=[ID_KEYS, ["choices"]], read=_fastchat),
    Form(name="lm-eval's samples", keys=[["doc"], ["resps", "filtered_resps"]], read=_lm_eval),
    Form(name="alpaca_eval's outputs", keys=[["instruction"], ["output"]], read=_alpaca),
    Form(name="id and text", keys=[ID_KEYS, ["turns", *TEXT_KEYS]], read=_plain),
)
