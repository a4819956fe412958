"""Files of answers that other tools write, read as rows: whose question, and what was said to each of its turns.

    FastChat's model_answer   {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": ["...", "..."]}]}
    alpaca_eval's outputs     [{"instruction": "...", "output": "...", "generator": "m"}, ...]
    lm-eval's samples         {"doc": {...}, "resps": [["..."]], "filtered_resps": ["..."]}
    OpenAI's and vLLM's batch {"custom_id": "81#1", "response": {"status_code": 200, "body": {"choices": [...]}}}
    any other                 {"id": "81", "text": "..."}, or "turns": ["...", "..."] in place of "text"

JSON lines and a JSON array are read alike (outside_files.py). "81#1" is the first turn of question 81, as
`fedllm-bench export prompts` names requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.evaluation.judges.finishes import Ending, ending
from fedllm_bench.evaluation.outside_files import Value, id_value, keys_shown, objects_of, text_value
from fedllm_bench.evaluation.records import Finish

ID_KEYS = ("question_id", "item_id", "id")
TEXT_KEYS = ("text", "answer", "output", "response")
FINISHES: Mapping[Ending, Finish] = {"whole": "stop", "cut": "length", "filtered": "filtered"}


@dataclass(frozen=True, kw_only=True)
class ImportedAnswer:
    """One answer: `turns` to the question with one of `texts` as its first turn, else with one of `ids`.

    `model` is who answered, "" where the file does not say; `more` counts other answers to it, which are left out.
    `finish` and `tokens` (0: not known) are of the last turn. Without `turns` `reason` says why there is no answer.
    """

    ids: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    turns: tuple[str, ...]
    model: str = ""
    more: int = 0
    finish: Finish = "stop"
    tokens: int = 0
    reason: str = ""

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


def read_files(paths: Sequence[Path]) -> tuple[str, list[ImportedAnswer]]:
    """As :func:`read_rows`, of several files of one format, as one for each turn."""
    found = [read_rows(path) for path in paths]
    if len(forms := dict.fromkeys(form for form, _ in found)) > 1:
        raise UserError(f"{paths[0]}: {counted(len(forms), 'format')} ({', '.join(forms)}); give files of one format")
    return found[0][0], [row for _, rows in found for row in rows]


def read_rows(path: Path) -> tuple[str, list[ImportedAnswer]]:
    """The format's name, and the rows. Raises a :class:`UserError` that names the line for what is no such file."""
    values = list(objects_of(path, str(path)))
    if not values:
        raise UserError(f"{path}: there is no answer in it")
    form = next((form for form in FORMS if form.fits(values[0][1])), None)
    if form is None:
        known = "; ".join(f"{form.name} ({', '.join('|'.join(keys) for keys in form.keys)})" for form in FORMS)
        raise UserError(f"{path}: its keys are {keys_shown(values[0][1])}; known forms are {known}")
    return form.name, [_row(form, value, where) for where, value in values]


def _row(form: Form, value: Value, where: str) -> ImportedAnswer:
    if not form.fits(value):
        wanted = ", ".join("|".join(keys) for keys in form.keys)
        raise UserError(f"{where}: its keys are {keys_shown(value)}; {form.name} has {wanted}")
    try:
        return form.read(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


# --- rows


def _turns(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} is no list of texts")
    return tuple(text_value(turn, what) for turn in value)


def _id(value: Value) -> str:
    return id_value(next((value[key] for key in ID_KEYS if key in value), None))


def _model(value: Value, key: str) -> str:
    return text_value(value.get(key) or "", key)


def _fastchat(value: Value) -> ImportedAnswer:
    choices = value["choices"]
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("choices is no list of objects")
    turns = _turns(choices[0].get("turns"), "choices[0].turns")
    return ImportedAnswer(ids=(_id(value),), turns=turns, model=_model(value, "model_id"), more=len(choices) - 1)


def _alpaca(value: Value) -> ImportedAnswer:
    texts = (text_value(value["instruction"], "instruction"),)
    return ImportedAnswer(texts=texts, turns=(text_value(value["output"], "output"),), model=_model(value, "generator"))


def _plain(value: Value) -> ImportedAnswer:
    key = next(key for key in ("turns", *TEXT_KEYS) if key in value)
    turns = _turns(value[key], key) if isinstance(value[key], list) else (text_value(value[key], key),)
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
    return ImportedAnswer(ids=ids, texts=texts, turns=(text_value(said, "resps (log-likelihoods are no answers)"),))


# --- batches


def _batch(value: Value) -> ImportedAnswer:
    """A line of a batch's output; one without an answer says why in `error`, or in the body of its response."""
    ids = (text_value(value["custom_id"], "custom_id"),)
    response = value.get("response")
    body = response.get("body", response) if isinstance(response, dict) else None
    choices: Any = body.get("choices") if isinstance(body, dict) else None
    is_list = isinstance(choices, list) and len(choices) > 0 and not _has_failed(value)
    if not isinstance(body, dict) or not is_list or not isinstance(choices[0], dict):
        return ImportedAnswer(ids=ids, turns=(), reason=_why_none(value, response, body))
    finish = FINISHES.get(ending(_plain_text(choices[0].get("finish_reason"))))
    said = _said(choices[0])
    if said is None or finish is None:
        why = f"it ended with {_plain_text(choices[0].get('finish_reason'))[:80]!a}"
        return ImportedAnswer(ids=ids, turns=(), reason=why if finish is None else "the message has no text")
    tokens = body["usage"].get("completion_tokens") if isinstance(body.get("usage"), dict) else 0
    return ImportedAnswer(
        ids=ids,
        turns=(text_value(said, "the answer").strip(),),
        model=text_value(_plain_text(body.get("model")), "model"),
        more=len(choices) - 1,
        finish=finish,
        tokens=tokens if isinstance(tokens, int) and 0 <= tokens < 2**31 else 0,
    )


def _has_failed(value: Value) -> bool:
    """Of a row that holds an answer too: a batch may keep a part of what was said before the error."""
    response = value.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    return bool(value.get("error")) or (isinstance(status, int) and status >= 400)


def _said(choice: Value) -> Any:
    """Of a chat, or of a completion; of a content in parts the text."""
    message = choice.get("message")
    said = message.get("content") if isinstance(message, dict) else choice.get("text")
    if not isinstance(said, list):
        return said
    parts = [part.get("text") for part in said if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(text for text in parts if isinstance(text, str)) if parts else None


def _why_none(value: Value, response: Any, body: Any) -> str:
    status = response.get("status_code") if isinstance(response, dict) else None
    error = value.get("error") or (body.get("error") if isinstance(body, dict) else None) or {}
    told = error.get("message") or error.get("code") if isinstance(error, dict) else error
    parts = ascii(": ".join(str(part)[:200] for part in (status, told) if part))[1:-1]
    return "the batch has no answer to it" + (f" ({parts})" if parts else "")


def _plain_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


FORMS = (
    Form(name="FastChat's model_answer", keys=[ID_KEYS, ["choices"]], read=_fastchat),
    Form(name="lm-eval's samples", keys=[["doc"], ["resps", "filtered_resps"]], read=_lm_eval),
    Form(name="a batch's output", keys=[["custom_id"], ["response", "error"]], read=_batch),
    Form(name="alpaca_eval's outputs", keys=[["instruction"], ["output"]], read=_alpaca),
    Form(name="id and text", keys=[ID_KEYS, ["turns", *TEXT_KEYS]], read=_plain),
)
