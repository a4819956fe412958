"""The split folder: readable by others, replaced whole, and refused once anything in it has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forged_manifests import forge

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_file
from fedllm_bench.data import manifest as m
from fedllm_bench.data.rows import SCHEMAS, PreferenceRow, SftRow


def row(client: str, number: int, split: str = "train") -> SftRow:
    messages = (
        {"role": "user", "content": f"питання {number}"},
        {"role": "assistant", "content": f"a{number}"},
    )
    return SftRow(
        client_id=client,
        split=split,
        row_id=f"{number:016x}",
        language="ukr",
        source="test",
        messages=messages,
    )


INFO = m.SplitInfo(
    name="tiny",
    dataset="aya",
    task="sft",
    version="1",
    upstream=m.Upstream(id="x/y", revision=None, files=(m.UpstreamFile(name="a.csv", sha256="0", rows=9),)),
    licence="Apache-2.0",
    recipe={"heldout": 0.1, "languages": ["ukr"]},
    funnel=(m.FunnelStep(step="raw", rows_removed=0, rows_left=7, clients_left=2, reason="rows | read"),),
)
ROWS: dict[m.Part, list[SftRow]] = {
    "train": [row("b", 1), row("a", 2), row("a", 3), row("a", 4)],
    "heldout": [row("a", 5, "heldout")],
    "unseen": [row("z", 6, "heldout"), row("z", 7, "heldout")],
}


def write(folder: Path, **parts: list[SftRow]) -> m.Split:
    return m.write_split(folder, INFO, {**ROWS, **parts}, extra_files={"facts.json": b"[1]"})


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        m.open_split(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_what_was_written_is_read_back(tmp_path):
    written = write(tmp_path / "s")
    split = m.open_split(tmp_path / "s")
    assert split == written
    assert (split.name, split.task, len(split.hash)) == ("tiny", "sft", 64)
    assert [(c.id, c.train, c.heldout) for c in split.manifest.clients] == [("a", 3, 1), ("b", 1, 0)]
    assert [(c.id, c.heldout) for c in split.manifest.unseen] == [("z", 2)]
    assert split.rows("train") == [row("a", 2), row("a", 3), row("a", 4), row("b", 1)]
    assert split.rows("heldout") == ROWS["heldout"]
    assert split.rows("unseen") == ROWS["unseen"]
    assert set(split.manifest.files) == {path.name for path in split.folder.iterdir()} - {m.MANIFEST}


def test_preference_rows_are_written_and_read_back(tmp_path):
    def pair(client: str, number: int, split: str = "train") -> PreferenceRow:
        prompt = tuple({"role": role, "content": f"{role} {number}"} for role in ("user", "assistant", "user"))
        names = {"client_id": client, "split": split, "row_id": f"{number:016x}", "language": "eng", "source": "s"}
        return PreferenceRow(**names, prompt=prompt, chosen="yes", rejected="no")

    rows: dict[m.Part, list[PreferenceRow]] = {
        "train": [pair("a", 1), pair("a", 2)],
        "heldout": [pair("a", 3, "heldout")],
    }
    split = m.write_split(tmp_path / "s", replace(INFO, task="preference"), rows)
    assert m.open_split(tmp_path / "s") == split
    assert {part: split.preference_rows(part) for part in m.PARTS} == {**rows, "unseen": []}
    with pytest.raises(UserError, match="cannot be read as 'sft' rows"):
        split.rows("train")
    with pytest.raises(UserError, match="cannot be read as 'preference' rows"):
        write(tmp_path / "t").preference_rows("train")


def test_notes_are_no_part_of_the_hash_and_without_them_the_manifest_is_as_before(tmp_path):
    split = write(tmp_path / "s")
    assert "notes" not in json.loads((split.folder / m.MANIFEST).read_text())
    noted = m.write_split(tmp_path / "n", replace(INFO, notes=("seen",)), ROWS, extra_files={"facts.json": b"[1]"})
    assert m.open_split(noted.folder).manifest.notes == ("seen",)
    assert noted.hash == split.hash
    forge(noted.folder, notes="text")
    refused(noted.folder, "notes")


def test_a_split_without_unseen_or_heldout_rows_has_empty_parts(tmp_path):
    split = write(tmp_path / "s", heldout=[], unseen=[])
    assert m.open_split(split.folder).rows("unseen") == []
    assert split.rows("heldout") == []
    assert not (split.folder / "unseen.parquet").exists()
    with pytest.raises(UserError, match="no part 'test'"):
        split.rows("test")


@pytest.mark.parametrize("empty", [{}, {"heldout": [], "unseen": []}])
def test_datasets_and_pandas_read_the_folder(tmp_path, empty, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    split = write(tmp_path / "s", **empty)
    loaded = datasets.load_dataset(str(split.folder), cache_dir=str(tmp_path / "cache"))
    parts = [part for part in m.PARTS if split.rows(part)]
    assert {part: loaded[part].num_rows for part in loaded} == {part: len(split.rows(part)) for part in parts}
    assert loaded["train"][0]["messages"] == list(split.rows("train")[0].messages)
    frame = pd.read_parquet(split.folder / "train.parquet")
    assert list(frame.columns) == SCHEMAS["sft"].names
    assert frame.client_id.value_counts().to_dict() == {"a": 3, "b": 1}


def test_the_hash_names_content_and_not_where_it_came_from(tmp_path):
    base = write(tmp_path / "s")
    mixed = write(tmp_path / "mixed", train=ROWS["train"][::-1])
    renamed = replace(INFO, upstream=replace(INFO.upstream, files=(), revision="abc"), licence="MIT")
    assert mixed.hash == base.hash
    assert m.write_split(tmp_path / "r", renamed, ROWS, extra_files={"facts.json": b"[1]"}).hash == base.hash
    others = [
        m.write_split(tmp_path / "x", INFO, ROWS, extra_files={"facts.json": b"[2]"}),
        m.write_split(tmp_path / "x", replace(INFO, recipe={}), ROWS, extra_files={"facts.json": b"[1]"}),
        write(tmp_path / "x", train=[*ROWS["train"][1:], replace(row("b", 1), language="eng")]),
        write(tmp_path / "x", heldout=[]),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 5


def test_another_parquet_writer_gives_the_same_hash(tmp_path):
    split = write(tmp_path / "s")
    table = pq.read_table(split.folder / "train.parquet")
    pq.write_table(table, split.folder / "train.parquet", compression="snappy", row_group_size=1)
    files = split.manifest.files | {"train.parquet": sha256_file(split.folder / "train.parquet")}
    assert files != split.manifest.files
    forge(split.folder, files=files)
    assert m.open_split(split.folder).hash == split.hash


def test_one_changed_byte_in_any_file_is_refused(tmp_path):
    split = write(tmp_path / "s")
    files = sorted(split.folder.iterdir())
    assert len(files) == 7
    for path in files:
        content = path.read_bytes()
        places = range(0, len(content), 1 if path.name == m.MANIFEST else max(1, len(content) // 7))
        for place in places:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            refused(split.folder, path.name)
        path.write_bytes(content)
        path.rename(path.with_suffix(".gone"))
        refused(split.folder, path.name)
        path.with_suffix(".gone").rename(path)
    assert m.open_split(split.folder) == split


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format": 2}, ["format 2", "reads 1"]),
        ({"name": 5}, ["name", "string"]),
        ({"task": "poetry"}, ["task"]),
        ({"clients": {"a": 3}}, ["clients"]),
        ({"clients": [{"id": "a", "train": "3", "heldout": 1}]}, ["clients.0.train", "integer"]),
        (
            {"clients": [{"id": "b", "train": 1, "heldout": 0}, {"id": "a", "train": 3, "heldout": 1}]},
            ["sorted"],
        ),
        ({"clients": [{"id": "a", "train": 4, "heldout": 1}]}, ["train.parquet", "4 rows"]),
        ({"unseen": []}, ["hash"]),
        ({"recipe": {}}, ["hash"]),
        ({"hash": "0" * 64}, ["hash"]),
        ({"files": {}}, ["names no file", "README.md"]),
    ],
)
def test_a_forged_manifest_is_refused_in_one_line(tmp_path, fields, words):
    folder = write(tmp_path / "s").folder
    forge(folder, **fields)
    refused(folder, m.MANIFEST, *words)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "a/b", "..", ".hidden", "a\\b"])
def test_file_names_that_leave_the_folder_are_refused(tmp_path, name):
    split = write(tmp_path / "s")
    (tmp_path / "secret.txt").write_text("x")
    forge(split.folder, files=split.manifest.files | {name: sha256_file(tmp_path / "secret.txt")})
    refused(split.folder, "leave the folder")
    with pytest.raises(ValueError, match="cannot be called"):
        m.write_split(tmp_path / "t", INFO, ROWS, extra_files={name: b""})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", ["not readable JSON"]),
        (b"\xff", ["not readable JSON"]),
        (b"[" * 100_000, ["not readable JSON"]),
        (b"[]", ["not an object"]),
        (b"{}", ["format None"]),
        (b'{"format": 1}', ["name", "required"]),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, content, words):
    folder = write(tmp_path / "s").folder
    (folder / m.MANIFEST).write_bytes(content)
    refused(folder, m.MANIFEST, *words)


def test_a_part_with_other_columns_or_types_is_refused(tmp_path):
    split = write(tmp_path / "s")
    path = split.folder / "train.parquet"
    table = pq.read_table(path)
    other = table.set_column(2, "row_id", pa.array(range(table.num_rows)))
    for content in (table.drop_columns("source"), other):
        pq.write_table(content, path)
        forge(split.folder, files=split.manifest.files | {"train.parquet": sha256_file(path)})
        refused(split.folder, "train.parquet", "columns")
    path.write_bytes(b"PAR1 but not really")
    forge(split.folder, files=split.manifest.files | {"train.parquet": sha256_file(path)})
    refused(split.folder, "train.parquet", "not readable parquet")


def test_no_split_is_named_as_such(tmp_path):
    refused(tmp_path / "nothing", "no split in")


def test_only_a_split_folder_is_replaced(tmp_path):
    split = write(tmp_path / "s")
    again = write(tmp_path / "s", unseen=[])
    assert m.open_split(again.folder).hash != split.hash
    (again.folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        write(again.folder)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / m.MANIFEST).write_text("{}")
    with pytest.raises(UserError, match="no part of a split"):
        write(foreign)
    assert (again.folder / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "s"):
        with pytest.raises(UserError) as caught:
            write(folder)
        assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_split(tmp_path, monkeypatch):
    split = write(tmp_path / "s")

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(m, "write_text", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path / "s", unseen=[])
    assert m.open_split(split.folder) == split
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_heldout_rows_without_a_training_client_are_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="held-out rows need"):
        write(tmp_path / "s", heldout=[row("stranger", 9, "heldout")])
    with pytest.raises(ValueError, match="unseen users"):
        write(tmp_path / "s", unseen=[row("a", 9, "heldout")])


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "x" * 101])
def test_split_names_are_safe_in_paths(tmp_path, name):
    with pytest.raises(UserError, match="split name"):
        m.write_split(tmp_path / "s", replace(INFO, name=name), ROWS)
