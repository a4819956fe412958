"""Raw rows, one in memory at a time: of the hub, parquet, Arrow, csv, JSON lines and JSON lists, each also gzip."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.text import counted
from fedllm_bench.data.build.bad_rows import BadRow, Handle, stop
from fedllm_bench.data.build.columns import Columns, Kind, check_columns, checked
from fedllm_bench.data.build.hub import HubSource
from fedllm_bench.data.build.json_rows import MAX_LINE_BYTES, Row, read_json, read_lines
from fedllm_bench.data.build.raw_files import (
    SPLIT_WORDS,
    ending,
    open_raw,
    open_seekable,
    raw_files,
    refuse_foreign,
    relative_name,
    split_of_name,
)

ROWS_PER_BATCH = 1024
TURN_FIELDS = {"role", "content"}
Raw = Path | HubSource  # a file, a folder of files, or a dataset of the hub


class RawRecord(NamedTuple):
    """One upstream row: the columns asked for, the upstream split, and where it stood."""

    values: dict[str, Any]
    split: str  # "train", "validation" or "test"
    file: str  # relative to the path that was read; for the hub, the name of the split
    number: int


def read_rows(
    raw: Raw,
    columns: Mapping[str, Kind],
    optional: Mapping[str, Kind] | None = None,
    bad: Handle = stop,
    split: str | None = "split",
) -> Iterator[RawRecord]:
    """The rows of a file, folder or hub dataset with the given columns, checked; `optional` ones may be missing.

    The column `split` says the upstream split of its row; without it the file name does, as on Hugging Face. Rows that
    cannot be read go to `bad`, which may raise.
    """
    wanted = Columns(columns, optional or {}, split=split).with_split()
    if isinstance(raw, HubSource):
        yield from _read_hub(raw, wanted, bad)
        return
    for file in raw_files(raw):
        yield from read_file(file, relative_name(file, raw), wanted, bad)


def _read_hub(source: HubSource, columns: Columns, bad: Handle) -> Iterator[RawRecord]:
    names: tuple[str, ...] = ()
    for split, number, row in source.rows():
        if tuple(row) != names:
            names = tuple(row)
            check_columns(f"{source}, {split}, row {number}", names, columns)
        if record := _record(f"{source}, {split}", split, (number, row), columns, bad):
            yield record


def read_file(file: Path, name: str, columns: Columns, bad: Handle) -> Iterator[RawRecord]:
    """The rows of one file, which records call `name`; a :class:`UserError` for a file that cannot be read."""
    try:
        refuse_foreign(file)
        for row in READERS[ending(file)](file, columns):
            if record := _record(str(file), name, row, columns, bad):
                yield record
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is a broken or cut-off gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {first_line(error)}") from error


def _record(path: str, name: str, row: Row, columns: Columns, bad: Handle) -> RawRecord | None:
    """A checked row of the file or hub split `name`; None for one that `bad` was told of."""
    number, values = row
    try:
        if isinstance(values, BadRow):
            raise values
        return _checked_record(name, number, values, columns)
    except BadRow as error:
        bad(path, name, error)
        return None


def _checked_record(name: str, number: int, row: Mapping[str, Any], columns: Columns) -> RawRecord:
    values = {key: checked(number, key, row[key], kind) for key, kind in columns.required.items()}
    for key, kind in columns.optional.items():
        if key in row and (row[key] is not None or kind is str):
            values[key] = checked(number, key, row[key], kind)
    stated = "" if columns.split is None else values.pop(columns.split, "")
    split = _split_of_value(number, columns.split, stated) or split_of_name(name)
    return RawRecord(values, split, name, number)


def _split_of_value(number: int, column: str | None, value: str) -> str:
    word = value.strip().lower()
    if word and word not in SPLIT_WORDS:
        known = f"there are {', '.join(SPLIT_WORDS)}"
        raise BadRow(f"row {number}: split {value[:40]!r} is unknown; {known}", f"column {column!r} is no known split")
    return SPLIT_WORDS.get(word, "")


def _read_csv(file: Path, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)  # the module's own limit, 128 KiB, is shorter than real conversations
    with open_raw(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            if not (head := next(reader, [])):
                raise UserError(f"{file} has no column names: its first line is empty")
            check_columns(str(file), head, columns)
            for number, cells in enumerate(reader, start=1):
                if cells and len(cells) != len(head):
                    counts = f"has {counted(len(cells), 'cell')}; the head has {len(head)}"
                    yield number, BadRow(f"row {number} {counts}", "has more or fewer cells than the head")
                elif cells:
                    yield number, dict(zip(head, cells, strict=True))
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num} is broken csv: {error}") from error


def _read_parquet(file: Path, columns: Columns) -> Iterator[Row]:
    with open_seekable(file) as source:
        try:
            parquet = pq.ParquetFile(source)
            _check_schema(str(file), parquet.schema_arrow, columns)
            wanted = _leaves(parquet, {*columns.required, *columns.optional})
            batches = parquet.iter_batches(batch_size=ROWS_PER_BATCH, columns=wanted)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not readable parquet: {first_line(error)}; fetch it again") from error


def _read_arrow(file: Path, columns: Columns) -> Iterator[Row]:
    """A file of Arrow's IPC format, or a stream of it, which is what `save_to_disk` writes."""
    with open_seekable(file) as source:
        try:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            schema, batches = _arrow_batches(source, is_file=is_file)
            _check_schema(str(file), schema, columns)
            wanted = [name for name in schema.names if name in columns.required or name in columns.optional]
            rows = (row for batch in batches for row in batch.select(wanted).to_pylist())
            yield from enumerate(rows, start=1)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is not readable Arrow: {first_line(error)}; fetch it again") from error


def _arrow_batches(source: Any, *, is_file: bool) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if not is_file:
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    file = pa.ipc.open_file(source)
    return file.schema, (file.get_batch(place) for place in range(file.num_record_batches))


def _check_schema(where: str, schema: pa.Schema, columns: Columns) -> None:
    """The names of the columns, and of the fields within those that are read."""
    check_columns(where, schema.names, columns)
    for name in schema.names:
        if name in columns.required or name in columns.optional:
            _check_fields(f"{where}, column {name!r}", schema.field(name).type)


def _check_fields(where: str, kind: pa.DataType) -> None:
    fields = [kind.field(place) for place in range(kind.num_fields)]
    names = [field.name for field in fields]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where} has the field {twice[0]!r} twice; rename or remove one")
    for field in fields:
        _check_fields(where, field.type)


def _leaves(parquet: pq.ParquetFile, names: set[str]) -> list[str]:
    """The parts of the wanted columns to read: of conversations only the turns' roles and contents.

    Upstream turns carry headers, states and times, which would be most of the work and may not even convert. Turns
    without one of the two are read whole, so that an error can say what they have.
    """
    top_of = _columns_by_path(parquet)
    within = {path: TURN_FIELDS.intersection(path.removeprefix(top).split(".")) for path, top in top_of.items()}
    fields = {top: set[str]() for top in top_of.values()}
    for path, top in top_of.items():
        fields[top] |= within[path]
    wanted = [path for path, top in top_of.items() if top in names]
    return [path for path in wanted if fields[top_of[path]] != TURN_FIELDS or within[path]]


def _columns_by_path(parquet: pq.ParquetFile) -> dict[str, str]:
    """Path of a part -> its column. A column may have dots in its own name, such as "user.id"."""
    paths = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    columns = sorted(parquet.schema_arrow.names, key=len, reverse=True)
    return {path: next(name for name in columns if f"{path}.".startswith(f"{name}.")) for path in paths}


READERS: dict[str, Callable[[Path, Columns], Iterator[Row]]] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".csv": _read_csv,
    ".jsonl": read_lines,
    ".json": read_json,
    ".ndjson": read_lines,
}
