"""The same rows in every raw format, and what is said of bad ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.readers import read_rows

COLUMNS = {"inputs": str, "user_id": str}


ROWS = [
    {"inputs": 'Питання, "так"?\nдва рядки', "user_id": "u1", "other": "x"},
    {
        "inputs": "שלום\u2028 ok",
        "user_id": "u2",
        "other": "",
    },  # a line separator for str.splitlines, not for JSON
    {"inputs": "", "user_id": "u2", "other": "y"},
]


def as_jsonl(rows=ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows=ROWS) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_arrow(rows=ROWS) -> bytes:
    """A stream, which is what `save_to_disk` writes."""
    sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return sink.getvalue()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})
    return text.getvalue().encode()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def error(path: Path, columns=COLUMNS) -> str:
    with pytest.raises(UserError) as caught:
        list(read_rows(path, columns))
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message
