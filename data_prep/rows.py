"""Rows of your own: the user names the columns, the licence and where the rows come from.

A row is a conversation in one column (`messages`), an instruction with a response and perhaps an input (`columns`, or
`prompt` and `completion`), or a prompt with two answers (`prompt`, `chosen` and `rejected`). A client is whatever the
column `client_column` tells apart: a user, a ward, a site; or what a partition makes of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.data.build.hub import HubSource, raw_source
from fedllm_bench.data.build.pipelines import PIPELINES, option
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.json_stream import is_unicode
from fedllm_bench.data.languages import CODES, any_language
from fedllm_bench.data.published import ALIASES

from .tables import Fields, Join, TablePipeline, table

DATASET = "rows"
NEEDED = {
    "client_column": "the column that says whose row it is, or a --partition that makes clients, such as iid:20",
    "raw": "the file, folder or dataset of the hub with the rows",
    "name": "of the split, as in run folders",
    "licence": "of the rows, such as CC-BY-4.0",
}
COLUMNS = ("messages", "prompt", "completion", "chosen", "rejected", "client_column", "language", "split_column")
PARTS = ("instruction", "input", "response", "system")  # of --columns
SHAPES = (("messages",), ("prompt", "completion"), ("prompt", "chosen", "rejected"), ("columns",))
CONTENT = (
    "give --messages COLUMN (turns with a role and a content), --prompt COLUMN with --completion COLUMN or with "
    '--chosen COLUMN and --rejected COLUMN, or --columns "instruction=COLUMN,input=COLUMN,response=COLUMN"'
)
NO_LANGUAGE = "and {!r} is no known language code or English name, such as deu or German"
# Nothing is dropped unasked: of rows of one's own nobody else knows how small a client may be.
RECIPE = Recipe(min_samples=1, heldout=0.1)
FIELDS = {"prompt": "instruction", "completion": "response"}  # what two of the columns are called in a table


def pipeline(said: Mapping[str, str]) -> TablePipeline:
    """The pipeline for rows of which the user says this: option -> value.

    The keys are those of :data:`COLUMNS`, `columns`, `join`, `name`, `licence`, `upstream`, `partition`, and `raw` for
    the place of the rows. Raises a :class:`UserError` for what is missing, blank or named twice.
    """
    _check(said)
    columns, language = _named_columns(said)
    parts = {FIELDS.get(part, part): column for part, column in columns.items() if part != "split"}
    fields = Fields(**parts, split=columns.get("split"), join=_join(said, columns))
    declaration = Declaration(
        dataset=DATASET,
        upstream=_upstream(said),
        licence=said["licence"].strip(),
        version="1",
        recipe=RECIPE,
        columns=columns | ({"language_code": language} if language else {}) | _joined(fields),
    )
    advice = {columns["language"]: NO_LANGUAGE.format(columns["language"])} if "language" in columns else {}
    return table(declaration, fields, language=language or "und", source=said["name"], is_own=True, advice=advice)


def _check(said: Mapping[str, str]) -> None:
    makes_clients = said.get("partition", "user") != "user"
    needed = {key: what for key, what in NEEDED.items() if not (makes_clients and key == "client_column")}
    if missing := [f"{option(key)} ({what})" for key, what in needed.items() if key not in said]:
        raise UserError(f"data build {DATASET} needs {', '.join(missing)}")
    for key, value in said.items():
        if not value.strip() or not value.isprintable() or not is_unicode(value):
            raise UserError(f"{option(key)} {value[:60]!a}: give one line of text")
    content = dict.fromkeys(key for shape in SHAPES for key in shape)
    given = {key for key in content if key in said}
    if given not in map(set, SHAPES):
        got = ", ".join(option(key) for key in content if key in given)
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
    named = {option(key): said[key] for key in COLUMNS if key in said and not (key == "language" and is_code)}
    named = {f"{part}=": column for part, column in _parts(said.get("columns", "")).items()} | named
    counts = Counter(named.values())
    if twice := [key for key in named if counts[named[key]] > 1]:
        raise UserError(f"{' and '.join(twice)} name the same column {named[twice[0]]!r}; give each its own")
    return {_part(key): column for key, column in named.items()}, language if is_code else ""


def _part(key: str) -> str:
    """`--client-column` is the part `client`, and `input=` the part `input`."""
    return key.strip("-=").removesuffix("-column")


def _parts(text: str) -> dict[str, str]:
    """Part of a row -> its column, as `--columns` names them; a :class:`UserError` for another form."""
    if not text:
        return {}
    pairs = [word.partition("=") for word in text.split(",")]
    found = {part.strip(): column.strip() for part, _, column in pairs}
    if wrong := [part for part in found if part not in PARTS]:
        raise unknown("part of a row in --columns", wrong[0], PARTS)
    if len(found) < len(pairs) or not all(found.values()) or not {"instruction", "response"} <= found.keys():
        raise UserError(
            f"--columns {text[:100]!a}: name instruction and response, and where there are such columns input and "
            'system, each once: "instruction=COLUMN,input=COLUMN,response=COLUMN"'
        )
    return found


def _join(said: Mapping[str, str], columns: Mapping[str, str]) -> Join:
    join = said.get("join", "turn")
    if "join" in said and "input" not in columns:
        raise UserError("--join says how an input goes behind its instruction; name the column by --columns input=...")
    if join not in get_args(Join):
        raise unknown("way to --join an input to its instruction", join, get_args(Join))
    return cast(Join, join)


def _joined(fields: Fields) -> dict[str, str]:
    """For the manifest: another join makes another split."""
    return {"join": fields.join} if fields.input else {}


def _upstream(said: Mapping[str, str]) -> str:
    """In the user's words, and always with the name of a dataset of the hub."""
    raw = raw_source(said["raw"])
    stated = said.get("upstream", "").strip()
    if isinstance(raw, HubSource):
        return f"{stated} (hub:{raw.id})" if stated else raw.id
    return stated or Path(raw).resolve().name
