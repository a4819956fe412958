"""Results of the parts of long work, kept on disk while the work goes on, so that a killed process loses one part."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedllm_bench.common import files

SECONDS_BETWEEN_SYNCS = 1.0  # a kill loses nothing that was written; a power failure at most this much


class Ledger:
    """Name -> value, a JSON line for each, in the file `path`; one process at a time writes it.

    `key` names all that the values depend on, but what their names say. What an earlier process left under another key
    is dropped, and so is a torn line with all that comes after it. Floats come back to the last bit, infinite ones too.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._synced = time.monotonic()
        self._found, self._size = self._read()

    def get(self, name: str) -> Any | None:
        """None where there is no such value."""
        return self._found.get(name)

    def put(self, name: str, value: Any) -> None:
        """Keep a value, not None; it outlives this process when this returns."""
        line = _line([name, value])
        if not self._size:
            files.make_folder(self.path.parent)
            line = _line([self.key]) + line
        with self.path.open("r+b" if self._size else "wb") as file:
            file.seek(self._size)
            file.write(line)
            file.truncate()  # behind it may stand what was torn
            file.flush()
            if time.monotonic() - self._synced >= SECONDS_BETWEEN_SYNCS:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self._size += len(line)
        self._found[name] = value

    def remove(self) -> None:
        """The work is done, and what came of it is in its place."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], int]:
        """The values, and where the last whole line of them ends; nothing under another key."""
        lines = _whole(self.path.read_bytes() if self.path.is_file() else b"")
        first, size = next(lines, ([], 0))
        if first != [self.key]:
            return {}, 0
        found: dict[str, Any] = {}
        for value, end in lines:
            if len(value) != 2:
                break
            found[str(value[0])], size = value[1], end
        return found, size


def _whole(content: bytes) -> Iterator[tuple[list[Any], int]]:
    """The list in each line, and where the line ends, up to the first line that is torn or holds anything else."""
    end = 0
    for line in content.split(b"\n")[:-1]:
        end += len(line) + 1
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, list):
            return
        yield value, end


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
