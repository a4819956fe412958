"""Replies that were paid for, kept over runs, crashes and processes: request hash -> Reply.

    <cache>/judgements/<judge>/replies.jsonl     {"key": request hash, "reply": {...}} a line

Each reply is appended and synced to disk before it counts as had. Any number of processes append to one file, a lock
at a time, and see what others added. A line that is torn (a killed machine, a full disk) is skipped, and its request
is made again. So is one whose reply was not said to its end, which earlier versions kept: the next reply takes its
place. Only places of replies are in memory, never their texts.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common import files
from fedllm_bench.evaluation.judges.finishes import is_whole
from fedllm_bench.evaluation.records import Reply

REPLY = TypeAdapter(Reply)
Entry = tuple[str, Reply]


class ReplyStore:
    """May be used from several threads."""

    def __init__(self, folder: Path) -> None:
        self.path = files.make_folder(folder) / "replies.jsonl"
        self._lock = FileLock(folder / ".lock")
        self._mutex = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}  # key -> first byte and length of its line
        self._read_to = 0

    def get(self, key: str) -> Reply | None:
        with self._mutex:
            self._catch_up()
            place = self._places.get(key)
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place[0])
            return _entry(file.read(place[1]))[1]

    def __len__(self) -> int:
        with self._mutex:
            self._catch_up()
            return len(self._places)

    def append(self, entries: Sequence[Entry]) -> None:
        """Returns when all of them are on disk."""
        lines = [files.canonical_json({"key": key, "reply": asdict(reply)}) for key, reply in entries]
        with self._lock, self.path.open("ab") as file:
            start = b"\n" if _is_torn(self.path) else b""
            file.write(start + "".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def _catch_up(self) -> None:
        """Read what was added since; a last line without its end is left for later."""
        if not self.path.is_file() or self.path.stat().st_size == self._read_to:
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                key, reply = _entry(line)
                if reply is not None and is_whole(reply.finish):
                    self._places.setdefault(key, (self._read_to, len(line)))
                self._read_to += len(line)


def _is_torn(path: Path) -> bool:
    """Whether the file ends within a line."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _entry(line: bytes) -> tuple[str, Reply | None]:
    """The key and reply of a line; no reply where it is no such line."""
    try:
        row: Any = json.loads(line)
        return str(row["key"]), REPLY.validate_python(row["reply"])
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return "", None
