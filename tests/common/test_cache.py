"""A cached folder: made once, whole or not at all, and made again where it cannot be read."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fedllm_bench.common.cache import cached, key_of


def read(folder: Path) -> str | None:
    file = folder / "text"
    return (file.read_text() or None) if file.is_file() else None


def writer(text: str, made: list[str]):
    def make(folder: Path) -> None:
        made.append(text)
        (folder / "text").write_text(text)

    return make


def test_a_folder_is_made_once(tmp_path):
    made: list[str] = []
    place = tmp_path / "kind"
    assert cached(place, "a", writer("one", made), read) == "one"
    assert cached(place, "a", writer("two", made), read) == "one"
    assert cached(place, "b", writer("two", made), read) == "two"
    assert made == ["one", "two"]
    assert sorted(path.name for path in place.iterdir()) == ["a", "b"]


def test_what_cannot_be_read_is_made_again_and_nothing_of_it_stays(tmp_path):
    cached(tmp_path / "kind", "a", writer("one", []), read)
    (tmp_path / "kind" / "a" / "text").write_text("")
    (tmp_path / "kind" / "a" / "other").write_text("left over")
    assert cached(tmp_path / "kind", "a", writer("two", []), read) == "two"
    assert [path.name for path in (tmp_path / "kind" / "a").iterdir()] == ["text"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left")])
def test_an_error_while_it_is_made_leaves_nothing(error, tmp_path):
    def make(folder: Path) -> None:
        (folder / "text").write_text("half")
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        cached(tmp_path / "kind", "a", make, read)
    assert not list((tmp_path / "kind").iterdir())


def test_of_several_that_start_together_one_makes_it(tmp_path):
    made: list[str] = []
    found: list[str] = []
    write = writer("one", made)

    def slow(folder: Path) -> None:
        time.sleep(0.1)
        write(folder)

    threads = [
        threading.Thread(target=lambda: found.append(cached(tmp_path / "kind", "a", slow, read))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made, found) == (["one"], ["one"] * 4)


def test_a_full_cache_that_cannot_be_written_is_read(tmp_path):
    cached(tmp_path / "kind", "a", writer("one", []), read)
    for path in (tmp_path / "locks").iterdir():
        path.unlink()
    (tmp_path / "locks").rmdir()
    (tmp_path / "locks").write_text("no folder")  # so no lock could be taken; a chmod would not stop root
    assert cached(tmp_path / "kind", "a", writer("two", []), read) == "one"


def test_equal_inputs_have_equal_keys_in_any_order():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
    assert len(key_of({})) == 20
