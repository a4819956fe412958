"""Rows in JSON: an object a line, or one list of objects, of which one is in memory at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import RepeatedKey, unique_keys
from fedllm_bench.data.build.bad_rows import BadRow
from fedllm_bench.data.build.columns import Columns, check_names, missing
from fedllm_bench.data.build.raw_files import open_raw
from fedllm_bench.data.json_stream import BLANK, items

MAX_LINE_BYTES = 64 * 2**20  # a file without line ends must not fill the memory
CHUNK_BYTES = 2**20
ONE_A_LINE = "one JSON object a line is expected"
WRITER = "pandas' to_json(FILE, orient='records', lines=True)"
Row = tuple[int, dict[str, Any] | BadRow]  # number in the file (for JSON lines: the line), then column -> value


def read_json(file: Path, columns: Columns) -> Iterator[Row]:
    """The rows of a list of objects, or of JSON lines in a file that ends in .json."""
    yield from _read_list(file, columns) if _is_list(file) else read_lines(file, columns)


def _is_list(file: Path) -> bool:
    with open_raw(file) as raw:
        for chunk in _chunks(raw):
            if begin := chunk.removeprefix(b"\xef\xbb\xbf").lstrip(BLANK.encode()):
                return begin.startswith(b"[")
    return False


def _chunks(raw: IO[bytes]) -> Iterator[bytes]:
    while chunk := raw.read(CHUNK_BYTES):
        yield chunk


def _read_list(file: Path, columns: Columns) -> Iterator[Row]:
    names: tuple[str, ...] | None = None
    with open_raw(file) as raw:
        for number, row in enumerate(items(_chunks(raw), str(file), MAX_LINE_BYTES), start=1):
            if not isinstance(row, dict):
                reason = f"is a JSON {type(row).__name__}, not an object"
                yield number, BadRow(f"row {number} {reason}", reason)
            elif tuple(row) == names:
                yield number, row
            else:
                check_names(f"{file}, row {number}", tuple(row), columns)
                lacking = missing(tuple(row), columns)
                if lacking and names is None:
                    raise UserError(f"{file}, row {number} {lacking}")
                names = names if lacking else tuple(row)
                yield number, BadRow(f"row {number} {lacking}", lacking.partition(";")[0]) if lacking else row


def read_lines(file: Path, columns: Columns) -> Iterator[Row]:
    names: tuple[str, ...] | None = None
    is_first = True
    with open_raw(file) as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise UserError(f"{file}, line {number} is longer than {MAX_LINE_BYTES} bytes; {ONE_A_LINE}")
            if not line.strip():
                continue
            row = _json_object(str(file), number, line)
            if isinstance(row, dict) and tuple(row) != names:
                row = _with_columns(file, number, row, columns, is_first=is_first)
                names, is_first = tuple(row) if isinstance(row, dict) else names, False
            yield number, row


def _with_columns(
    file: Path, number: int, row: dict[str, Any], columns: Columns, *, is_first: bool
) -> dict[str, Any] | BadRow:
    """The row, if it has the columns. A file of which no row has them always stops."""
    check_names(f"{file}, line {number}", tuple(row), columns)
    lacking = missing(tuple(row), columns)
    if lacking and is_first and not _some_row_has(file, columns.required):
        raise UserError(f"{file}, line {number} {lacking}")
    return BadRow(f"line {number} {lacking}", lacking.partition(";")[0]) if lacking else row


def _some_row_has(file: Path, names: Iterable[str]) -> bool:
    """Whether one of these JSON lines has all the columns; broken lines have none."""
    with open_raw(file) as lines:
        while line := lines.readline(MAX_LINE_BYTES + 1):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line.decode("utf-8-sig"))
                if isinstance(row, dict) and row.keys() >= set(names):
                    return True
    return False


def _json_object(file: str, number: int, line: bytes) -> dict[str, Any] | BadRow:
    where = f"line {number}"
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        return BadRow(f"{where} is not UTF-8 ({error.reason}); save it as UTF-8", "is not UTF-8")
    except RepeatedKey as error:
        raise UserError(f"{file}, {where} has {error}; rename or remove one") from error
    except (ValueError, RecursionError) as error:
        if number == 1:
            _refuse_lines_of_one(f"{file}, {where}", line, error)
        return BadRow(f"{where} is broken JSON: {first_line(error)}", "is broken JSON")
    if number == 1 and isinstance(row, list):
        raise UserError(f"{file}, {where} is a JSON list, not an object; {ONE_A_LINE}, such as by {WRITER}")
    if not isinstance(row, dict):
        return BadRow(f"{where} is a JSON {type(row).__name__}, not an object; {ONE_A_LINE}", "is no JSON object")
    return row


def _refuse_lines_of_one(where: str, line: bytes, error: Exception) -> None:
    """For a first line that only begins an array or an object: a pretty-printed file would be all bad rows."""
    begins = line.decode("utf-8-sig", "replace").strip()
    is_open = isinstance(error, json.JSONDecodeError) and error.pos >= len(begins)
    if begins.startswith("[") or (begins.startswith("{") and begins.endswith(("{", "[")) and is_open):
        what = "an array" if begins.startswith("[") else "an object"
        raise UserError(
            f"{where} is broken JSON: {what} over several lines (pretty-printed?); {ONE_A_LINE}, such as by {WRITER}"
        )
