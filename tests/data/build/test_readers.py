"""Raw rows: every format gives the same records, and every defect one line that says where it is."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from raw_formats import COLUMNS, ROWS, as_arrow, as_jsonl, as_parquet, error, put

from fedllm_bench.data.build import json_rows, readers
from fedllm_bench.data.build.readers import read_rows, split_of_name


def as_csv(rows=ROWS) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


WRITERS = {
    ".jsonl": as_jsonl,
    ".json": as_jsonl,
    ".ndjson": as_jsonl,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".arrow": as_arrow,
}


def test_every_reader_is_tested():
    assert set(WRITERS) == set(readers.READERS)
    assert len(WRITERS) == 6


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, ending, packed):
    path = put(tmp_path / f"rows{ending}{packed}", WRITERS[ending]())
    records = list(read_rows(path, COLUMNS))
    assert [record.values for record in records] == [{key: row[key] for key in COLUMNS} for row in ROWS]
    assert {(record.split, record.file) for record in records} == {("train", path.name)}
    assert [record.number for record in records] == [1, 2, 3]


def test_a_folder_is_read_in_order_of_names_without_hidden_and_foreign_files(tmp_path):
    put(tmp_path / "data" / "test-00000-of-00001.parquet", as_parquet(ROWS[:1]))
    put(tmp_path / "a.jsonl.gz", as_jsonl(ROWS[1:2]))
    put(tmp_path / ".cache" / "b.jsonl", b"{broken")
    put(tmp_path / "README.md", b"words")
    got = [(record.file, record.split, record.values["user_id"]) for record in read_rows(tmp_path, COLUMNS)]
    assert got == [("a.jsonl.gz", "train", "u2"), ("data/test-00000-of-00001.parquet", "test", "u1")]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("aya_test.jsonl.gz", "test"),
        ("Validation.csv", "validation"),
        ("my dev set.json", "validation"),
        ("eval1.jsonl", "test"),
        ("latest.jsonl", "train"),
        ("contest.jsonl", "train"),
        ("rows.csv", "train"),
    ],
)
def test_the_split_is_a_word_of_the_file_name(name, split):
    assert split_of_name(name) == split


def test_a_split_column_goes_before_the_file_name(tmp_path):
    rows = [{**ROWS[0], "split": word} for word in ("train", "TEST", "validation", "")]
    path = put(tmp_path / "x_test.jsonl", as_jsonl(rows))
    assert [record.split for record in read_rows(path, COLUMNS)] == ["train", "test", "validation", "test"]
    assert "split" not in next(read_rows(path, COLUMNS)).values
    put(path, as_jsonl([{**ROWS[0], "split": "sideways"}]))
    assert "row 1: split 'sideways' is unknown" in error(path)


def test_optional_columns_and_nulls(tmp_path):
    path = put(tmp_path / "x.jsonl", as_jsonl([{"inputs": None, "user_id": "u", "source": "s"}, *ROWS]))
    values = [record.values for record in read_rows(path, COLUMNS, {"source": str})]
    assert values[0] == {"inputs": "", "user_id": "u", "source": "s"}
    assert "source" not in values[1]


def test_a_null_in_an_optional_column_that_is_no_text_is_absent(tmp_path):
    rows = [{**ROWS[0], "toxic": value} for value in (None, True)]
    for name, content in {"x.jsonl": as_jsonl(rows), "x.parquet": as_parquet(rows)}.items():
        records = read_rows(put(tmp_path / name, content), COLUMNS, {"toxic": bool})
        assert [record.values.get("toxic") for record in records] == [None, True]


@pytest.mark.parametrize("ending", WRITERS)
def test_a_missing_column_is_named_with_those_there_are(tmp_path, ending):
    path = put(tmp_path / f"x{ending}", WRITERS[ending]([{"inputs": "a", "usr": "b"}]))
    message = error(path)
    assert "has no column 'user_id'" in message
    assert "'inputs', 'usr'" in message


def as_list() -> bytes:
    return json.dumps(ROWS, indent=2, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \n\t"])
def test_a_list_of_objects_is_read_as_lines_of_them(tmp_path, name, before):
    of_list = list(read_rows(put(tmp_path / name, before + as_list()), COLUMNS))
    of_lines = list(read_rows(put(tmp_path / "lines" / name, as_jsonl()), COLUMNS))
    assert [record.values for record in of_list] == [record.values for record in of_lines]
    assert [record.number for record in of_list] == [1, 2, 3]
    assert list(read_rows(put(tmp_path / "empty.json", before + b"[ ]"), COLUMNS)) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.jsonl", as_jsonl() + b"{broken\n", "line 4 is broken JSON"),
        ("x.jsonl", b"\n" + as_jsonl() + b'{"a": 1', "line 5 is broken JSON"),
        ("x.json", b"[\n", "broken JSON in value 1 of the list"),
        ("x.json", b"[1, 2]\n", "row 1 is a JSON int, not an object"),
        ("x.jsonl", b"[1, 2]\n", "line 1 is a JSON list, not an object"),
        ("x.json", b'[{"inputs": "a", "user_id": "u"}', "',' or ']' after value 1"),
        ("x.json", b'[{"inputs": "a", "user_id": "u"}] 1', "there is more after the JSON list"),
        ("x.json", b'[{"inputs": "a", "user_id": "u"}, {"inputs": "b"}]', "row 2 has no column 'user_id'"),
        ("x.json", b'[{"inputs": "a", "inputs": "b", "user_id": "u"}]', "twice"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.json", as_list() + b"\xff", "not UTF-8"),
        ("x.jsonl", b'"text"\n', "not an object"),
        ("x.jsonl", b"[" * 100_000, "line 1 is broken JSON"),
        ("x.jsonl", as_jsonl() + b'{"inputs": "\xff"}\n', "line 4 is not UTF-8"),
        ("x.csv", as_csv() + b"\xff,u,o\r\n", "not UTF-8"),
        ("x.csv", as_csv() + b"only one\r\n", "row 4 has 1 cell; the head has 3"),
        ("x.csv", as_csv() + b'"open', "broken csv"),
        ("x.csv", b"", "has no column"),
        ("x.parquet", b"no parquet at all", "not readable parquet"),
        ("x.parquet", as_parquet()[:-9], "not readable parquet"),
        ("x.parquet.gz", b"no parquet at all", "not readable parquet"),
        (
            "x.jsonl",
            as_jsonl([ROWS[0], {"inputs": 5, "user_id": "u"}]),
            "row 2: column 'inputs' is int, not str",
        ),
        ("x.parquet", as_parquet([{"inputs": "a", "user_id": 7}]), "row 1: column 'user_id' is int, not str"),
    ],
)
def test_a_defect_is_one_line_that_says_where(tmp_path, name, content, words):
    assert words in error(put(tmp_path / name, content))


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("damage", [lambda packed: packed[:-12], lambda packed: b"no gzip" + packed])
def test_broken_gzip_is_refused(tmp_path, ending, damage):
    path = tmp_path / f"x{ending}.gz"
    path.write_bytes(damage(gzip.compress(WRITERS[ending]())))
    assert "gzip" in error(path)


def test_paths_without_rows_are_refused(tmp_path):
    assert "no such file" in error(tmp_path / "nothing.csv")
    assert "none of its files" in error(put(tmp_path / "folder" / "README.md", b"").parent)
    message = error(put(tmp_path / "x.xlsx", b""))
    assert all(ending in message for ending in (*WRITERS, ".gz"))


def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", 1000)
    assert "line 1 is longer than 1000 bytes" in error(put(tmp_path / "x.jsonl.gz", b"a" * 5000))
    assert "value 1 of the list is longer than 1000 characters" in error(put(tmp_path / "x.json", b'["' + b"a" * 5000))


def test_rows_are_read_one_by_one(tmp_path):
    path = put(tmp_path / "x.jsonl", as_jsonl() + b"{broken")
    assert next(read_rows(path, COLUMNS)).values["user_id"] == "u1"  # the broken end is not reached
