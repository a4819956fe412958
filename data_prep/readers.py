"""Raw rows from the hub or local files (parquet, csv, JSON lines, each also gzip), one row in memory at a time."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from fedllm_bench.errors import UserError, first_line

from .hub import HubSource

MAX_LINE_BYTES = 64 * 2**20  # a file without line ends must not fill the memory
ROWS_PER_BATCH = 1024
TURN_FIELDS = ("role", "content")
# The words by which Hugging Face `datasets` finds the split in a file name.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
Raw = Path | HubSource  # a file, a folder of files, or a dataset of the hub
Row = tuple[int, dict[str, Any]]  # number in the file (for JSON lines: the line), then column -> value


class RawRecord(NamedTuple):
    """One upstream row: the columns asked for, the upstream split, and where it stood."""

    values: dict[str, Any]
    split: str  # "train", "validation" or "test"
    file: str  # relative to the path that was read; for the hub, the name of the split
    number: int


class Columns(NamedTuple):
    """Column -> type; a null is "" where a string is due, absent in another optional column, and else refused."""

    required: Mapping[str, type]
    optional: Mapping[str, type]


def raw_files(path: Path) -> list[Path]:
    """The readable files at `path`, a file or a folder with its sub-folders, in order of name."""
    allowed = f"{', '.join(READERS)}, each also with .gz"
    if not path.exists():
        raise UserError(f"no raw rows at {path}: no such file or folder")
    if path.is_dir():
        inside = [file for file in path.rglob("*") if _is_visible(file.relative_to(path)) and file.is_file()]
        if not (files := sorted(file for file in inside if _ending(file) in READERS)):
            raise UserError(f"no raw rows in {path}: none of its files ends in {allowed}")
        return files
    if _ending(path) not in READERS:
        raise UserError(f"cannot read {path}: its name must end in {allowed}")
    return [path]


def relative_name(file: Path, path: Path) -> str:
    """How a file below `path` is called in records and manifests."""
    return file.name if file == path else file.relative_to(path).as_posix()


def read_rows(raw: Raw, columns: Mapping[str, type], optional: Mapping[str, type] | None = None) -> Iterator[RawRecord]:
    """The rows of a file, folder or hub dataset with the given columns, checked; `optional` ones may be missing.

    A column `split` says the upstream split of its row; without it the file name does, as on Hugging Face.
    """
    wanted = Columns(columns, {**(optional or {}), "split": str})
    if isinstance(raw, HubSource):
        yield from _read_hub(raw, wanted)
        return
    for file in raw_files(raw):
        yield from _read_file(file, relative_name(file, raw), wanted)


def _read_hub(source: HubSource, columns: Columns) -> Iterator[RawRecord]:
    for split, number, row in source.rows():
        _check_columns(f"{source}, {split}, row {number}", list(row), columns)
        yield _record(f"{source}, {split}", split, number, row, columns)


def _read_file(file: Path, name: str, columns: Columns) -> Iterator[RawRecord]:
    try:
        for number, row in READERS[_ending(file)](file, columns):
            yield _record(str(file), name, number, row, columns)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is a broken or cut-off gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {first_line(error)}") from error


def _record(where: str, name: str, number: int, row: Mapping[str, Any], columns: Columns) -> RawRecord:
    """A checked row of the file or hub split `name`; `where` is what an error says."""
    values = {key: _checked(where, number, key, row[key], kind) for key, kind in columns.required.items()}
    for key, kind in columns.optional.items():
        if key in row and (row[key] is not None or kind is str):
            values[key] = _checked(where, number, key, row[key], kind)
    split = _split_of_value(where, number, values.pop("split", "")) or split_of_name(name.rpartition("/")[2])
    return RawRecord(values, split, name, number)


@functools.cache
def split_of_name(name: str) -> str:
    """The upstream split that a file name states as a word: train, validation or test; train by default."""
    words = re.split(r"[-._ 0-9]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")


def _split_of_value(where: str, number: int, value: str) -> str:
    word = value.strip().lower()
    if word and word not in SPLIT_WORDS:
        raise UserError(f"{where}, row {number}: split {value[:40]!r} is unknown; there are {', '.join(SPLIT_WORDS)}")
    return SPLIT_WORDS.get(word, "")


def _checked(where: str, number: int, column: str, value: Any, kind: type) -> Any:
    if value is None and kind is str:
        return ""
    if not isinstance(value, kind):
        raise UserError(f"{where}, row {number}: column {column!r} is {type(value).__name__}, not {kind.__name__}")
    return value


def _check_columns(where: str, present: list[str], columns: Columns) -> None:
    if missing := [column for column in columns.required if column not in present]:
        shown = ", ".join(map(repr, present[:30])) or "none"
        raise UserError(f"{where} has no column {', '.join(map(repr, missing))}; it has {shown}")


def _read_jsonl(file: Path, columns: Columns) -> Iterator[Row]:
    with _open(file) as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise UserError(f"{file}, line {number} is longer than {MAX_LINE_BYTES} bytes; one JSON object a line")
            if line.strip():
                row = _json_object(f"{file}, line {number}", line)
                _check_columns(f"{file}, line {number}", list(row), columns)
                yield number, row


def _json_object(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is broken JSON: {first_line(error)}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is a JSON {type(row).__name__}, not an object; one object a line is expected")
    return row


def _read_csv(file: Path, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)  # the module's own limit, 128 KiB, is shorter than real conversations
    with _open(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            head = next(reader, [])
            _check_columns(str(file), head, columns)
            for number, cells in enumerate(reader, start=1):
                if cells and len(cells) != len(head):
                    raise UserError(f"{file}, row {number} has {len(cells)} cells; the head has {len(head)}")
                if cells:
                    yield number, dict(zip(head, cells, strict=True))
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num} is broken csv: {error}") from error


def _read_parquet(file: Path, columns: Columns) -> Iterator[Row]:
    with _seekable(file) as source:
        try:
            parquet = pq.ParquetFile(source)
            names = parquet.schema_arrow.names
            _check_columns(str(file), names, columns)
            wanted = _leaves(parquet, {*columns.required, *columns.optional})
            batches = parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=wanted)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
        except pa.ArrowException as error:
            raise UserError(f"{file} is not readable parquet: {first_line(error)}") from error


def _leaves(parquet: pq.ParquetFile, names: set[str]) -> list[str]:
    """The parts of the wanted columns to read: of conversations only the turns' roles and contents.

    Upstream turns carry headers, states and times, which would be most of the work and may not even convert.
    """
    paths = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    turns = {path for path in paths if path.rpartition(".")[2] in TURN_FIELDS}
    with_turns = {path.partition(".")[0] for path in turns}
    tops = ((path, path.partition(".")[0]) for path in paths)
    return [path for path, top in tops if path in names or (top in names and (top not in with_turns or path in turns))]


READERS: dict[str, Callable[[Path, Columns], Iterator[Row]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".ndjson": _read_jsonl,
}


def _ending(file: Path) -> str:
    name = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    return name.suffix.lower()


def _is_visible(relative: Path) -> bool:
    return not any(part.startswith(".") for part in relative.parts)  # .cache, .git and the like


def _open(file: Path) -> AbstractContextManager[IO[bytes]]:
    # GzipFile is an IO[bytes] in all but its type stub.
    return cast("IO[bytes]", gzip.open(file, "rb")) if file.suffix.lower() == ".gz" else file.open("rb")


def _seekable(file: Path) -> AbstractContextManager[IO[bytes]]:
    """Parquet is read from its end, so a gzip one is unpacked first, to disk rather than into memory."""
    if file.suffix.lower() != ".gz":
        return file.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with _open(file) as packed:
            shutil.copyfileobj(packed, unpacked, 2**20)
    except BaseException:
        unpacked.close()
        raise
    unpacked.seek(0)
    return unpacked
