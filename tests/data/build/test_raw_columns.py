"""Columns of raw rows: two of one name are refused in every format, user ids are text or whole numbers."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from built_rows import as_parquet, built
from raw_formats import error, put
from raw_rows import aya, chat, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data import json_stream
from fedllm_bench.data.build.columns import USER_ID
from fedllm_bench.data.build.readers import read_rows


def csv_of(head: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([head, [f"cell {place}" for place in range(len(head))]])
    return text.getvalue().encode()


def table_of(head: list[str]) -> pa.Table:
    return pa.Table.from_arrays([pa.array([f"cell {place}"]) for place in range(len(head))], names=head)


def parquet_of(head: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table_of(head), sink)
    return sink.getvalue()


def arrow_of(head: list[str]) -> bytes:
    """A file of Arrow's IPC format, not a stream."""
    sink, table = io.BytesIO(), table_of(head)
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return sink.getvalue()


def jsonl_of(head: list[str]) -> bytes:
    return (
        "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(f'cell {i}')}" for i, name in enumerate(head)) + "}\n"
    ).encode()


WRITERS = {".csv": csv_of, ".parquet": parquet_of, ".arrow": arrow_of, ".jsonl": jsonl_of}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("twice", ["inputs", "user_id", "other"])
def test_a_repeated_column_is_refused_in_every_format(tmp_path, ending, packed, twice):
    path = put(tmp_path / f"x{ending}{packed}", WRITERS[ending](["inputs", "user_id", "other", twice]))
    assert f"'{twice}' twice" in error(path)


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("like", ["User_ID", " user_id", "user_id\t", "\ufeffuser_id", "USER_ID"])
def test_a_column_that_differs_in_case_or_spaces_only_is_told(tmp_path, ending, like):
    both = error(put(tmp_path / f"x{ending}", WRITERS[ending](["inputs", "user_id", like])))
    assert f"has the columns 'user_id' and {like!r}, which differ in case or spaces only" in both
    if ending == ".csv" and like.startswith("\ufeff"):
        return  # a mark at the start of a text file, which is no part of the name
    alone = error(put(tmp_path / f"y{ending}", WRITERS[ending]([like, "inputs"])))
    assert f"has the column {like!r}, which is read by the name 'user_id' only" in alone


def test_an_optional_column_in_other_letters_is_not_passed_over(tmp_path):
    path = write_raw(tmp_path / "x.jsonl", [chat("u", "q", "a") | {"Toxic": True}])
    with pytest.raises(UserError, match="has the column 'Toxic', which is read by the name 'toxic' only"):
        built(path, tmp_path)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_columns_without_a_name_are_nobodys(tmp_path, ending):
    path = put(tmp_path / f"x{ending}", WRITERS[ending](["inputs", "user_id", "", ""]))
    assert [record.values for record in read_rows(path, {"inputs": str})] == [{"inputs": "cell 0"}]


@pytest.mark.parametrize("deep", ['{"a": 1, "a": 2}', '[{"b": [{"a": 1, "\\u0061": 2}]}]'])
def test_a_repeated_key_is_refused_at_any_depth(tmp_path, deep):
    path = put(
        tmp_path / "x.jsonl",
        b'{"inputs": "q", "user_id": "u"}\n{"inputs": "q", "user_id": "u", "x": %s}' % deep.encode(),
    )
    assert "line 2 has the key 'a' twice" in error(path)


def test_a_repeated_key_in_json_text_is_refused(tmp_path):
    rows = [chat("u", "q", "a") | {"conversation": '[{"role": "user", "content": "q", "content": "r"}]'}]
    for path in (write_raw(tmp_path / "x.jsonl", rows), as_parquet(tmp_path / "x.parquet", rows)):
        with pytest.raises(UserError, match=r"row 1: column 'conversation' .* the key 'content' twice"):
            built(path, tmp_path)


def test_a_repeated_field_of_a_wanted_parquet_column_is_refused(tmp_path):
    turns = pa.StructArray.from_arrays(
        [pa.array(["user"]), pa.array(["q"]), pa.array(["r"])], ["role", "content", "content"]
    )
    columns = {"conversation": pa.ListArray.from_arrays([0, 1], turns), "language": ["English"], "hashed_ip": ["u"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="column 'conversation' has the field 'content' twice"):
        built(tmp_path / "x.parquet", tmp_path)


def test_a_repeated_key_of_a_published_file_is_refused():
    text = b'{"user": [{"instruction": "a", "response": "b", "response": "c"}]}'
    with pytest.raises(UserError, match="'user' has the key 'response' twice"):
        [list(samples) for _, samples in json_stream.users([text], "x.json")]


# --- user ids


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64()])
def test_user_ids_that_are_whole_numbers_are_text_of_their_digits(tmp_path, kind):
    table = pa.table({"inputs": ["a", "b"], "user_id": pa.array([7, 100], kind)})
    pq.write_table(table, tmp_path / "x.parquet")
    lines = [{"inputs": "a", "user_id": 7}, {"inputs": "b", "user_id": 100}]
    for path in (tmp_path / "x.parquet", write_raw(tmp_path / "x.jsonl", lines)):
        assert [r.values["user_id"] for r in read_rows(path, {"user_id": USER_ID})] == ["7", "100"]


def test_a_large_user_id_keeps_every_digit(tmp_path):
    rows = [aya("", f"q{i}", "a") | {"user_id": 2**63 - 1 - i % 2} for i in range(4)]
    for path in (write_raw(tmp_path / "x.jsonl", rows), as_parquet(tmp_path / "x.parquet", rows)):
        split = built(path, tmp_path, "aya", languages=())
        assert [client.id for client in split.manifest.clients] == ["9223372036854775806", "9223372036854775807"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1001.0, "is float, not str; save it as text or whole numbers"),
        (float("nan"), "is float, not str"),
        (True, "is bool, not str"),
        (b"u1", "is bytes, not str (binary); save it as text"),
        (["u1"], "is list, not str"),
    ],
)
@pytest.mark.parametrize(("dataset", "column"), [("aya", "user_id"), ("wildchat", "hashed_ip")])
def test_a_user_id_of_another_type_is_refused(tmp_path, value, said, dataset, column):
    rows: list[dict[str, Any]] = [(aya if dataset == "aya" else chat)("u", "q", "a") | {column: value}]
    paths = [as_parquet(tmp_path / "x.parquet", rows)]
    paths += [] if isinstance(value, bytes) else [write_raw(tmp_path / "x.jsonl", rows)]
    for path in paths:
        with pytest.raises(UserError) as caught:
            built(path, tmp_path, dataset)
        assert f"{path.name}, row 1: column '{column}' {said}" in str(caught.value)


def test_text_that_is_binary_is_refused(tmp_path):
    path = as_parquet(tmp_path / "x.parquet", [aya("u", "q", "a") | {"inputs": b"q"}])
    with pytest.raises(UserError, match=r"row 1: column 'inputs' is bytes, not str \(binary\); save it as text"):
        built(path, tmp_path, "aya")


def test_user_ids_that_look_alike_stay_apart_and_are_counted(tmp_path):
    users = ["u1", "U1", "u1 ", "u2", "Ａ", "a"]
    path = write_raw(tmp_path / "x.jsonl", [aya(user, f"{user} q{i}", "a") for user in users for i in range(3)])
    split = built(path, tmp_path, "aya", languages=(), near_duplicates="off")
    assert [client.id for client in split.manifest.clients] == sorted(users)
    (note,) = split.manifest.notes
    assert note.startswith("user ids: 5 differ from another one only in case, surrounding spaces or Unicode form")
    for card in ("README.md", "card.html"):
        assert "user ids: 5 differ" in (split.folder / card).read_text()


def test_user_ids_that_are_clearly_different_have_no_note(tmp_path):
    path = write_raw(tmp_path / "x.jsonl", [aya(user, f"{user} q", "a") for user in ("u1", "u2", "u 1")])
    assert built(path, tmp_path, "aya", languages=(), near_duplicates="off").manifest.notes == ()


def test_a_gzip_csv_with_a_repeated_column_is_refused_before_any_row_is_read(tmp_path):
    path = put(tmp_path / "x.csv.gz", csv_of(["inputs", "user_id", "inputs"]) + b'"broken')
    assert "the column 'inputs' twice" in error(path)
