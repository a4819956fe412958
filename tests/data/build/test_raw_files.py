"""Folders as downloads leave them, and files that are not what their name says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from built_rows import as_parquet, built
from raw_formats import as_arrow, as_jsonl, error
from raw_formats import as_parquet as parquet_bytes
from raw_rows import aya, chat, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.raw_files import METADATA, passed_over, raw_files, split_of_name
from fedllm_bench.data.build.readers import READERS, read_rows

ROWS = [aya(f"u{i % 2}", f"q{i}", f"a{i}") for i in range(8)]
PRETTY = json.dumps({"default": {"features": {}}}, indent=2)


def put(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def hash_of(path: Path, tmp_path: Path, **options) -> str:
    return built(path, tmp_path, "aya", languages=(), **options).hash


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """The hash of the split of the rows in a file of their own."""
    return hash_of(write_raw(tmp_path / "plain.jsonl", ROWS), tmp_path)


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("folder", ["", "data/"])
def test_metadata_beside_the_rows_is_passed_over_with_a_note(tmp_path, plain, name, folder):
    clone = tmp_path / "clone"
    put(clone / folder / name, PRETTY)
    (clone / "data").mkdir(exist_ok=True)
    as_parquet(clone / "data" / "train-00000-of-00001.parquet", ROWS)
    split = built(clone, tmp_path, "aya", languages=())
    assert split.hash == plain
    assert split.manifest.notes[0].startswith(f"files: passed over {folder}{name}, which")
    assert [file.name for file in split.manifest.upstream.files] == ["data/train-00000-of-00001.parquet"]


def test_a_whole_clone_is_read_and_what_is_not_is_named(tmp_path, plain):
    clone = tmp_path / "clone"
    hidden = (".gitattributes", ".cache/huggingface/x.json", ".huggingface/y.jsonl", ".git/z.json")
    seen = ("README.md", "data/train.parquet.lock", "data/x.metadata", "part-1.parquet.incomplete", "refs/main")
    for name in (*hidden, *seen, "dataset_infos.json"):
        put(clone / name, PRETTY)
    as_parquet(clone / "data" / "train.parquet", ROWS)
    assert hash_of(clone, tmp_path) == plain
    assert sorted(passed_over(clone)) == sorted((*seen, "dataset_infos.json"))


def test_a_folder_of_metadata_alone_has_no_rows(tmp_path):
    with pytest.raises(UserError, match=r"no raw rows in .*: none of its files ends in"):
        raw_files(put(tmp_path / "clone" / "dataset_infos.json", PRETTY).parent)


def test_a_metadata_file_that_is_asked_for_is_read(tmp_path):
    assert "line 1 is broken JSON: an object over several lines" in error(put(tmp_path / "state.json", PRETTY))
    assert [r.values for r in read_rows(put(tmp_path / "metadata.json", as_jsonl()), {"user_id": str}, {})]


def test_a_folder_of_save_to_disk_gives_the_rows_of_the_data_set(tmp_path, plain):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    put(tmp_path / "saved" / "cache-0123456789abcdef.arrow", as_arrow())  # what `map` leaves there
    assert hash_of(tmp_path / "saved", tmp_path) == plain
    assert "cache-0123456789abcdef.arrow" in passed_over(tmp_path / "saved")


def test_splits_of_save_to_disk_are_upstream_splits(tmp_path):
    parts = {"train": ROWS[:6], "test": ROWS[6:]}
    named = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(named).save_to_disk(tmp_path / "saved")
    rows = [row | {"split": name} for name, own in parts.items() for row in own]
    expected = hash_of(write_raw(tmp_path / "x.jsonl", rows), tmp_path, heldout="upstream")
    assert hash_of(tmp_path / "saved", tmp_path, heldout="upstream") == expected


def test_a_conversation_of_save_to_disk_is_that_of_json_lines(tmp_path):
    rows = [chat(f"u{i % 2}", f"q{i}", "a", toxic=i == 0, openai_moderation=[{"flagged": i == 1}]) for i in range(6)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    plain = built(write_raw(tmp_path / "x.jsonl", rows), tmp_path)
    assert built(tmp_path / "saved", tmp_path).hash == plain.hash


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("default/test/0000.parquet", "test"),
        ("validation/data-00000-of-00001.arrow", "validation"),
        ("test/train-00000.parquet", "train"),
        ("train/test/0000.parquet", "test"),
        ("my test data/0000.parquet", "train"),
    ],
)
def test_the_split_of_a_file_without_one_in_its_name_is_that_of_its_folder(name, split):
    assert split_of_name(name) == split


def zip_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("rows.jsonl", content)
    return packed.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 5\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"
FOREIGN: dict[str, tuple[bytes, str]] = {
    "LFS pointer": (POINTER, "a Git LFS pointer, not the file itself; run git lfs pull"),
    "annex pointer": (b"/annex/objects/SHA256E-s5--0123.parquet\n", "a git-annex pointer"),
    "web page": (PAGE, "a web page (HTML or XML), perhaps of an error or a log-in; fetch it again"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page (HTML or XML)"),
    "zip": (zip_of(b"{}"), "a zip archive; unpack it"),
    "bzip2": (bz2.compress(b"{}"), "packed with bzip2; unpack it"),
}


@pytest.mark.parametrize("ending", [*READERS, *(f"{ending}.gz" for ending in READERS)])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_something_else_is_told_by_its_first_bytes(tmp_path, ending, kind):
    content, said = FOREIGN[kind]
    assert f"x{ending} is {said}" in error(put(tmp_path / f"x{ending}", content))


@pytest.mark.parametrize("kind", FOREIGN)
def test_so_is_one_within_gzip(tmp_path, kind):
    content, said = FOREIGN[kind]
    assert f"is, once unpacked, {said}" in error(put(tmp_path / "x.jsonl.gz", gzip.compress(content)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", gzip.compress(as_jsonl()), "packed with gzip; give it a name that ends in .gz"),
        ("x.parquet", gzip.compress(parquet_bytes()), "packed with gzip; give it a name that ends in .gz"),
        ("x.jsonl.gz", gzip.compress(gzip.compress(as_jsonl())), "packed with gzip twice; unpack it once"),
        ("x.jsonl", parquet_bytes(), "is parquet; give it a name that ends in .parquet"),
        ("x.csv.gz", parquet_bytes(), "is parquet; give it a name that ends in .parquet"),
        ("x.arrow", parquet_bytes(), "is parquet"),
        ("x.parquet", b"", "is empty (0 bytes); fetch it again"),
        ("x.arrow", b"", "is empty (0 bytes); fetch it again"),
        ("x.jsonl.gz", b"", "is empty (0 bytes); fetch it again"),
        ("x.csv.gz", b"", "is empty (0 bytes); fetch it again"),
        ("x.csv", b"", "has no column names: its first line is empty"),
        ("x.csv", b"\r\n", "has no column names: its first line is empty"),
        ("x.parquet", parquet_bytes()[:-9], "not readable parquet"),
        ("x.arrow", as_arrow()[:-200], "not readable Arrow"),
        ("x.arrow", b"no arrow at all", "not readable Arrow"),
        ("x.jsonl", json.dumps(ROWS, indent=2).encode(), "line 1 is broken JSON: an array over several lines"),
        ("x.jsonl", ("[" + ",\n".join(map(json.dumps, ROWS)) + "]").encode(), "an array over several lines"),
        ("x.json", json.dumps(ROWS[0], indent=2).encode(), "line 1 is broken JSON: an object over several lines"),
        ("x.json", json.dumps({"rows": ROWS}, indent=2).encode(), "an object over several lines"),
        ("x.jsonl", json.dumps(ROWS).encode(), "line 1 is a JSON list, not an object; one JSON object a line"),
    ],
)
def test_a_file_of_another_form_is_one_line_that_says_what_to_do(tmp_path, name, content, said):
    assert said in error(put(tmp_path / name, content))


def test_empty_json_lines_hold_no_row(tmp_path):
    with pytest.raises(UserError, match="nothing is left of 0 raw rows: the files hold no row at all"):
        built(put(tmp_path / "x.jsonl"), tmp_path, "aya")


def test_rows_that_speak_of_web_pages_and_pointers_are_rows(tmp_path):
    words = ["<!DOCTYPE html><html>", POINTER.decode(), "PK\x03\x04", "PAR1"]
    rows = [{"inputs": word, "user_id": "u"} for word in words]
    for name, content in {"x.jsonl": as_jsonl(rows), "x.parquet": parquet_bytes(rows)}.items():
        got = read_rows(put(tmp_path / name, content), {"inputs": str})
        assert [record.values["inputs"] for record in got] == words


def test_a_link_that_leads_nowhere_is_refused_and_not_passed_over(tmp_path):
    as_parquet(put(tmp_path / "clone" / "a.parquet"), ROWS)
    (tmp_path / "clone" / "b.parquet").symlink_to(tmp_path / "nowhere.parquet")
    with pytest.raises(UserError, match=r"b\.parquet is a link to a file that is not there"):
        built(tmp_path / "clone", tmp_path, "aya")


def test_one_version_of_the_hubs_cache_is_read_and_two_are_refused(tmp_path, plain):
    cache = tmp_path / "datasets--org--name"
    as_parquet(put(cache / "blobs" / "0123"), ROWS)
    for commit in ("c1", "c2"):
        put(cache / "refs" / "main", commit)
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "train.parquet").symlink_to(cache / "blobs" / "0123")
        if commit == "c1":
            assert hash_of(cache, tmp_path) == plain
    with pytest.raises(UserError, match=r"holds 2 versions of one data set; give one of them, such as .*c1"):
        built(cache, tmp_path, "aya")
    assert hash_of(cache / "snapshots" / "c2", tmp_path) == plain


def test_a_stream_and_a_file_of_arrow_give_the_same_rows(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=3)
    put(tmp_path / "stream.arrow", as_arrow(ROWS))
    found = [[r.values for r in read_rows(tmp_path / f"{n}.arrow", {"inputs": str})] for n in ("file", "stream")]
    assert found[0] == found[1] == [{"inputs": row["inputs"]} for row in ROWS]
