"""Tables of methods: rows with a label, a family, a method and settings, in benchmarks/tables or a file of one's own.

A rule that is a setting, such as communication.lora_aggregation, is a row as a method is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import groupby
from typing import Any

from fedllm_bench.common.errors import UserError, escaped, shown, unknown
from fedllm_bench.common.files import at_home
from fedllm_bench.config import presets
from fedllm_bench.config.assignments import FileWord
from fedllm_bench.config.option_names import no_method
from fedllm_bench.config.preset_files import PACKAGE
from fedllm_bench.config.preset_words import read_toml
from fedllm_bench.config.run import dotted
from fedllm_bench.config.setting_words import setting_words

FOLDER = "tables"
KEYS = ("label", "family", "method", "settings")
LABEL = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,39}", re.ASCII)  # it names a log, and stands before ":" in --set
LONGEST = 60  # letters of a family: it stands above its rows
BASE = "base"  # the row of the base model
MOST_ROWS = 500
FORM = "each [[row]] has label, family, method and, if it needs some, settings"


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """`settings` are words of --set that hold for this row alone."""

    label: str
    family: str
    method: str
    settings: tuple[str, ...] = ()


def table_names(root: Traversable | None = None) -> list[str]:
    entries = (root or files(PACKAGE)).joinpath(FOLDER).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def read_table(given: str, root: Traversable | None = None) -> tuple[MethodRow, ...]:
    """The rows of a table of benchmarks/tables, or of a TOML file.

    Raises a :class:`UserError` for a name that is neither, for rows that are none, and for a label that stands twice.
    """
    names, option = table_names(root), f"--table {escaped(given)}"
    path = at_home(given)
    if given not in names and not path.exists():
        raise unknown("table", given, names, "--table takes one of these, or a TOML file with rows")
    own = (root or files(PACKAGE)).joinpath(FOLDER, f"{given}.toml") if given in names else None
    values = read_toml(path, option, FORM) if own is None else tomllib.loads(own.read_text("utf-8"))
    rows = values.get("row")
    if set(values) != {"row"} or not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
        raise UserError(f"{option}: it must be 1 to {MOST_ROWS} [[row]] and nothing else; {FORM}")
    found = tuple(_row(each, f"{option}, row {place}") for place, each in enumerate(rows, start=1))
    _check_rows(found, option)
    return found


def _row(values: Any, where: str) -> MethodRow:
    if not isinstance(values, Mapping) or not set(KEYS[:3]) <= set(values) <= set(KEYS):
        got = ", ".join(values) if isinstance(values, Mapping) else repr(values)
        raise UserError(f"{where}: got {escaped(got[:100])}; {FORM}")
    texts = {key: values[key] for key in KEYS[:3]}
    if bad := [key for key, text in texts.items() if not _is_line(text)]:
        raise UserError(
            f"{where}: {bad[0]} is {shown(values[bad[0]])}; give a text on one line, of at most {LONGEST} letters"
        )
    if not LABEL.fullmatch(texts["label"]):
        raise UserError(f"{where}: the label {texts['label']!r}: give at most 40 of a-z, 0-9, _ . + and -")
    if texts["label"] == BASE:
        raise UserError(f"{where}: the label {BASE!r} is that of the base model in the table; give another one")
    if texts["method"] not in presets.method_names():
        raise no_method(texts["method"], presets.method_names(), where)
    settings = values.get("settings", {})
    if not isinstance(settings, Mapping):
        raise UserError(f'{where}: settings is {shown(settings)}; give a table such as {{ "local.lr" = 1e-3 }}')
    try:
        words = tuple(FileWord(word, where) for word in setting_words(dotted(settings)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return MethodRow(**texts, settings=words)


def _is_line(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= LONGEST and value.isprintable()


def _check_rows(rows: Sequence[MethodRow], option: str) -> None:
    labels = [row.label for row in rows]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UserError(f"{option}: the label {twice[0]} stands twice; give each row its own")
    families = [family for family, _ in groupby(row.family for row in rows)]
    if apart := sorted({family for family in families if families.count(family) > 1}):
        raise UserError(f"{option}: rows of the family {apart[0]!r} do not stand together; move them together")
