"""Values kept by content: whole after a kill, shared by processes, and never believed when damaged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.embedding.cache import FILE, ValueCache, default_cache, key

WRITER = """
import sys
import numpy as np
from pathlib import Path
from fedllm_bench.diversity.embedding.cache import ValueCache, key
kept, who = ValueCache(Path(sys.argv[1])), sys.argv[2]
for number in range(int(sys.argv[3])):
    kept.put_many({key(who, str(number), str(part)): np.full(4, number, np.float32) for part in range(8)})
    print(number, flush=True)
"""


def _values(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key("a text", str(number)): rng.normal(size=5).astype(np.float32) for number in range(count)}


def test_what_was_kept_comes_back_to_the_bit_and_only_that(tmp_path: Path) -> None:
    values = _values(1203) | {key("scalar"): np.float32(2.5).reshape(()), key("matrix"): np.eye(3, dtype=np.float32)}
    kept = ValueCache(tmp_path / "deep" / "cache")
    assert kept.get_many(list(values)) == {}
    kept.put_many(values)
    found = ValueCache(kept.folder).get_many([*values, *values, key("never kept")])
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[name], values[name]) and found[name].shape == values[name].shape for name in values)


def test_a_later_value_replaces_an_earlier_one(tmp_path: Path) -> None:
    kept, name = ValueCache(tmp_path), key("x")
    for number in (1.0, 2.0):
        kept.put_many({name: np.array([number], np.float32)})
    assert kept.get_many([name])[name].tolist() == [2.0]


def test_keys_tell_apart_where_one_part_ends() -> None:
    keys = {key("ab", "c"), key("a", "bc"), key("abc"), key("abc", "")}
    assert len(keys) == 4
    assert all(len(each) == 64 for each in keys)


def test_the_default_is_below_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path))
    assert default_cache().folder.parent == tmp_path


@pytest.mark.parametrize("column", ["data", "shape", "sum", "key"])
def test_a_damaged_value_is_noticed_and_not_believed(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept, values = ValueCache(tmp_path), _values(3)
    kept.put_many(values)
    names = list(values)
    asked = key("another text") if column == "key" else names[1]
    new = {"data": values[names[0]].tobytes(), "shape": "[1, 5]", "sum": b"0" * 16, "key": asked}[column]
    with closing(sqlite3.connect(tmp_path / FILE)) as base, base:
        base.execute(f"UPDATE kept SET {column} = ? WHERE key = ?", (new, names[1]))
    assert kept.get_many([names[0], asked, names[2]]).keys() == {names[0], names[2]}
    assert "1 values are damaged" in caplog.text
    kept.put_many({asked: values[names[1]]})
    assert np.array_equal(kept.get_many([asked])[asked], values[names[1]])


@pytest.mark.parametrize("damage", ["no database", "cut", "garbled", "empty"])
def test_a_damaged_file_is_put_aside_and_a_new_one_begun(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept, values = ValueCache(tmp_path), _values(500)
    kept.put_many(values)
    file = tmp_path / FILE
    content = file.read_bytes()
    garbled = content[:100] + bytes(len(content) - 100)
    file.write_bytes({"no database": b"x" * 5000, "cut": content[:9000], "garbled": garbled, "empty": b""}[damage])
    found = kept.get_many(list(values))
    assert all(np.array_equal(found[name], values[name]) for name in found)
    assert len(found) < len(values)
    kept.put_many(values)
    assert kept.get_many(list(values)).keys() == values.keys()
    assert damage == "empty" or "damaged" in caplog.text


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the folder"):
        ValueCache(tmp_path / "file" / "cache").put_many(_values(1))
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match="FEDLLM_BENCH_CACHE"):
        ValueCache(tmp_path).put_many(_values(1))


def _start(folder: Path, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    writers = [_start(tmp_path, who, 20) for who in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    names = [key(who, str(number), str(part)) for who in "ab" for number in range(20) for part in range(8)]
    assert ValueCache(tmp_path).get_many(names).keys() == set(names)


def test_a_killed_process_leaves_whole_writes(tmp_path: Path) -> None:
    writer = _start(tmp_path, "a", 100_000)
    assert writer.stdout is not None
    for _ in range(10):
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(60)
    found = ValueCache(tmp_path).get_many([key("a", str(n), str(part)) for n in range(last + 200) for part in range(8)])
    kept = sum(key("a", str(n), "0") in found for n in range(last + 200))
    assert kept > last
    assert len(found) == 8 * kept
