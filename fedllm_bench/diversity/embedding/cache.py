"""Values that are computed once: small float32 arrays by the hash of all they depend on, in one SQLite file.

SQLite keeps it whole: what a process wrote is there or not, whatever kills it, and several processes may read and
write at once. Each value carries a checksum over its key, shape and bytes, so that a damaged one is noticed and
computed again. Nothing in it is ever executed (no pickle), and the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError

log = logging.getLogger(__name__)
Floats = NDArray[np.float32]
T = TypeVar("T")

FILE = "values-1.sqlite"  # another number for another table
COLUMNS = "key TEXT PRIMARY KEY, shape TEXT NOT NULL, data BLOB NOT NULL, sum BLOB NOT NULL"
KEYS_AT_ONCE = 500  # below SQLite's oldest limit of 999 for the parameters of a statement
SECONDS_TO_WAIT = 120.0  # for another process that is writing
BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def key(*parts: str) -> str:
    """The name of a value: sha256 of all that it depends on; ("ab", "c") and ("a", "bc") differ."""
    return files.sha256_json(list(parts))


def default_cache() -> ValueCache:
    """Where the commands keep such values."""
    return ValueCache(files.cache_root() / "diversity")


@dataclass(frozen=True)
class ValueCache:
    """What is kept in `folder`, which is made when the first value is written.

    A folder that cannot be written, or has no space left, is a :class:`UserError`.
    """

    folder: Path

    def get_many(self, keys: Sequence[str]) -> dict[str, Floats]:
        """The values that are there, by key, in no order; damaged ones count as not there."""
        if not self._file.is_file():
            return {}
        found, num_damaged = self._tried(lambda base: _read(base, list(dict.fromkeys(keys)))) or ({}, 0)
        if num_damaged:
            log.warning("%s: %d values are damaged; they are computed again", self._file, num_damaged)
        return found

    def put_many(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep all of `values` or, when killed, none; an older value of a key is replaced."""
        if not values:
            return
        files.make_folder(self.folder)
        rows = [_row(name, value) for name, value in values.items()]
        if self._tried(lambda base: _write(base, rows)) is None:
            self._tried(lambda base: _write(base, rows))

    @property
    def _file(self) -> Path:
        return self.folder / FILE

    def _tried(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `use` returns; None where the file turned out to be broken and was put aside."""
        try:
            with self._open() as base:
                return use(base)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in BROKEN:
                raise UserError(f"cannot use the cache {self._file}: {error}; free or delete it, or set "
                                "FEDLLM_BENCH_CACHE to another folder") from error  # fmt: skip
            self._put_aside(str(error))
            return None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=SECONDS_TO_WAIT)) as base, base:
            base.execute(f"CREATE TABLE IF NOT EXISTS kept ({COLUMNS})")
            yield base

    def _put_aside(self, why: str) -> None:
        """Begin a new file; a journal left beside the broken one would be played into it, so it goes first."""
        log.warning("%s is damaged (%s); it is put aside and its values are computed again", self._file, why)
        for suffix in ("-journal", ""):
            path = self.folder / f"{FILE}{suffix}"
            if path.exists():
                path.replace(self.folder / f"{FILE}.damaged-{os.getpid()}{suffix}")


def _read(base: sqlite3.Connection, keys: list[str]) -> tuple[dict[str, Floats], int]:
    found: dict[str, Floats] = {}
    num_damaged = 0
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[start : start + KEYS_AT_ONCE]
        marks = ",".join("?" * len(some))
        for name, shape, data, checksum in base.execute(
            f"SELECT key, shape, data, sum FROM kept WHERE key IN ({marks})", some
        ):
            if _checksum(name, shape, data) == checksum:
                found[name] = np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(json.loads(shape))
            else:
                num_damaged += 1
    return found, num_damaged


def _write(base: sqlite3.Connection, rows: list[tuple[str, str, bytes, bytes]]) -> bool:
    base.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", rows)
    return True


def _row(name: str, value: NDArray[np.float32]) -> tuple[str, str, bytes, bytes]:
    data = np.ascontiguousarray(value, dtype="<f4").tobytes()
    shape = json.dumps(value.shape)
    return name, shape, data, _checksum(name, shape, data)


def _checksum(name: str, shape: str, data: bytes) -> bytes:
    return hashlib.sha256(b"\0".join((str(name).encode(), str(shape).encode(), bytes(data)))).digest()[:16]
