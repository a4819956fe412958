"""Rows of your own: the user names the columns, the licence and where the rows come from.

A row is a conversation in one column (`messages`), or a prompt and a completion in two. A client is whatever the
column `client_column` tells apart: a user, a ward, a site.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.columns import USER_ID, Columns, Kind
from fedllm_bench.data.build.hub import HubSource, raw_source
from fedllm_bench.data.build.pipelines import PIPELINES, option
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.build.sample import Message, Note, Sample
from fedllm_bench.data.json_stream import is_unicode
from fedllm_bench.data.languages import CODES, any_language
from fedllm_bench.data.published import ALIASES

from .conversations import MALFORMED, ROLES, alternates, turns_of

DATASET = "rows"
NEEDED = {
    "client_column": "the column that says whose row it is",
    "name": "of the split, as in run folders",
    "licence": "of the rows, such as CC-BY-4.0",
}
COLUMNS = ("messages", "prompt", "completion", "client_column", "language", "split_column")
CONTENT = "give --messages COLUMN (turns with a role and a content), or --prompt COLUMN with --completion COLUMN"
NO_LANGUAGE = "and {!r} is no known language code or English name, such as deu or German"
UNKNOWN_LANGUAGE = (
    "language: {rows} with no known language code or English name, such as deu or German; taken as und: {values}"
)
SYSTEM_TURN = "conversation: {rows} with a system turn, which are left out; remove that turn to keep them"
OTHER_ROLES = "conversation: {rows} with other roles than user and assistant; roles found: {values}; rename them"
# Nothing is dropped unasked: of rows of one's own nobody else knows how small a client may be.
RECIPE = Recipe(min_samples=1, heldout=0.1)


class RowsPipeline(NamedTuple):
    """The pipeline of one file of rows."""

    DECLARATION: Declaration
    build: Builder


def pipeline(said: Mapping[str, str]) -> RowsPipeline:
    """The pipeline for rows of which the user says this: option -> value.

    The keys are those of :data:`COLUMNS`, `name`, `licence`, `upstream`, and `raw` for the place of the rows. Raises a
    :class:`UserError` for what is missing, blank or named twice.
    """
    _check(said)
    columns, language = _named_columns(said)
    declaration = Declaration(
        dataset=DATASET,
        upstream=_upstream(said),
        licence=said["licence"].strip(),
        version="1",
        recipe=RECIPE,
        checks=(MALFORMED,) if "messages" in columns else (),
        columns=columns | ({"language_code": language} if language else {}),
    )
    advice = {columns["language"]: NO_LANGUAGE.format(columns["language"])} if "language" in columns else {}
    read = Columns(_kinds(columns), {}, split=columns.get("split"), advice=advice)
    return RowsPipeline(declaration, Builder(declaration, read, _sampler(columns, language, said["name"]), is_own=True))


def _check(said: Mapping[str, str]) -> None:
    if missing := [f"{option(key)} ({what})" for key, what in NEEDED.items() if key not in said]:
        raise UserError(f"data build {DATASET} needs {', '.join(missing)}")
    for key, value in said.items():
        if not value.strip() or not value.isprintable() or not is_unicode(value):
            raise UserError(f"{option(key)} {value[:60]!a}: give one line of text")
    asked = "messages" in said, "prompt" in said, "completion" in said
    if asked not in ((True, False, False), (False, True, True)):
        got = ", ".join(option(key) for key in ("messages", "prompt", "completion") if key in said)
        raise UserError(f"data build {DATASET} got {got or 'no column of text'}; {CONTENT}")
    _check_name(said["name"])


def _check_name(name: str) -> None:
    """Refuse a name that a reader would take for one of the benchmark's, in whatever case it is written."""
    plain = name.casefold()
    if plain.startswith("mini-"):
        raise UserError(f"--name {name}: names that begin with mini- are reserved; give another name")
    if plain in (DATASET, *PIPELINES, *ALIASES):
        raise UserError(
            f"--name {name}: that is a data set of the benchmark, and your rows are another; give another name"
        )


def _named_columns(said: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Part of a row -> its column, and the language of all rows; "" where a column says it, or nothing does.

    Raises a :class:`UserError` for a column that is to be two parts.
    """
    language = any_language(said.get("language", ""))
    is_code = language in CODES
    named = {key: said[key] for key in COLUMNS if key in said and not (key == "language" and is_code)}
    counts = Counter(named.values())
    if twice := [key for key in named if counts[named[key]] > 1]:
        raise UserError(
            f"{' and '.join(map(option, twice))} name the same column {named[twice[0]]!r}; give each its own"
        )
    return {key.removesuffix("_column"): column for key, column in named.items()}, language if is_code else ""


def _kinds(columns: Mapping[str, str]) -> dict[str, Kind]:
    special: dict[str, Kind] = {"messages": object, "client": USER_ID}
    return {column: special.get(part, str) for part, column in columns.items()}


def _upstream(said: Mapping[str, str]) -> str:
    """In the user's words, and always with the name of a dataset of the hub."""
    raw = raw_source(said["raw"])
    stated = said.get("upstream", "").strip()
    if isinstance(raw, HubSource):
        return f"{stated} (hub:{raw.name})" if stated else raw.name
    return stated or Path(raw).resolve().name


def _sampler(columns: Mapping[str, str], language: str, name: str) -> Callable[[RawRecord], Sample]:
    def sample_of(record: RawRecord) -> Sample:
        turns = _turns(record, columns)
        word = record.values.get(columns.get("language", ""), "")
        is_whole = "messages" not in columns or alternates(turns)
        return Sample(
            client=record.values[columns["client"]],
            turns=turns[:-1],
            answers=tuple(content for _, content in turns[-1:]),
            language=language or any_language(word),
            source=name,
            upstream_split=record.split,
            file=record.file,
            flags=frozenset() if is_whole else frozenset({MALFORMED.name}),
            notes=(*_role_notes(turns), *(_language_notes(word) if "language" in columns else ())),
        )

    return sample_of


def _role_notes(turns: Sequence[Message]) -> Iterator[Note]:
    for role in dict.fromkeys(role for role, _ in turns if role not in ROLES):
        yield Note(SYSTEM_TURN if role == "system" else OTHER_ROLES, role)


def _language_notes(word: str) -> Iterator[Note]:
    if any_language(word) == "und" and word.strip().lower() != "und":
        yield Note(UNKNOWN_LANGUAGE, word)


def _turns(record: RawRecord, columns: Mapping[str, str]) -> tuple[Message, ...]:
    if "messages" in columns:
        return turns_of(record, columns["messages"])
    return ("user", record.values[columns["prompt"]]), ("assistant", record.values[columns["completion"]])
