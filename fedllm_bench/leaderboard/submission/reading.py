"""The only way to the bytes of a submission: plain files, bounded, unpacked in pieces, one JSON value at a time."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fedllm_bench.leaderboard.submission.limits import LIMITS, SizeLimits
from fedllm_bench.leaderboard.submission.problems import Refused
from fedllm_bench.leaderboard.submission.untrusted import loads

CHUNK = 2**18
GZIP = 31  # zlib's window bits for a gzip header and trailer
RATIO, RATIO_FROM = 300, 2**20  # records of one run pack about 10 to 1; deflate itself ends at 1032


def open_plain(path: Path) -> BinaryIO:
    """`path` opened for reading if it is a plain file: no link is followed, and no pipe is waited for."""
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise Refused("unreadable", error.strerror or "cannot be opened", path.name) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise Refused("special-file", "not a plain file", path.name)
    return os.fdopen(number, "rb")


def digest_of(path: Path, most: int) -> tuple[str, int]:
    """sha256 and size of a file of at most `most` bytes."""
    total, state = 0, hashlib.sha256()
    with open_plain(path) as file:
        while chunk := file.read(CHUNK):
            total += len(chunk)
            if total > most:
                raise Refused("too-large", f"more than {most} bytes", path.name)
            state.update(chunk)
    return state.hexdigest(), total


def read_plain(path: Path, most: int, where: str) -> bytes:
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Refused("too-large", f"more than {most} bytes", where)
    return content


def pieces(path: Path, where: str, limits: SizeLimits = LIMITS) -> Iterator[bytes]:
    """The unpacked bytes of a .gz file of one member, or of any other file, in pieces of at most CHUNK."""
    with open_plain(path) as file:
        yield from _unpacked(file, where, limits) if path.name.endswith(".gz") else iter(lambda: file.read(CHUNK), b"")


def _unpacked(file: BinaryIO, where: str, limits: SizeLimits) -> Iterator[bytes]:
    stream, packed, total = zlib.decompressobj(wbits=GZIP), 0, 0
    while not stream.eof:
        chunk = stream.unconsumed_tail
        if not chunk:
            chunk = file.read(CHUNK)
            packed += len(chunk)
        try:
            piece = stream.decompress(chunk, CHUNK)  # of no bytes: what zlib still holds back
        except zlib.error as error:
            raise Refused("not-gzip", f"no gzip file ({error})", where) from None
        if not chunk and not piece:
            raise Refused("not-gzip", "the gzip file is cut", where)
        total += len(piece)
        if total > limits.file_unpacked or total > max(RATIO_FROM, RATIO * packed):
            raise Refused("zip-bomb", f"unpacks to more than {total - 1} bytes from {packed}", where)
        yield piece
    if stream.unused_data or file.read(1):
        raise Refused("not-gzip", "there is more after the end of the gzip file", where)


def lines(path: Path, where: str, limits: SizeLimits = LIMITS) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers from 1, without blank ones."""
    rest, number = b"", 0
    for piece in pieces(path, where, limits):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            number += 1
            if number > limits.file_lines:
                raise Refused("too-large", f"more than {limits.file_lines} lines", where)
            if line:
                yield number, _bounded(line, number, where, limits)
        _bounded(rest, number + 1, where, limits)
    if rest:
        yield number + 1, rest


def _bounded(line: bytes, number: int, where: str, limits: SizeLimits) -> bytes:
    if len(line) > limits.line:
        raise Refused("long-line", f"line {number} is longer than {limits.line} bytes", where)
    return line


def json_lines(path: Path, where: str, limits: SizeLimits = LIMITS) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl or .jsonl.gz file; Refused, with the line's number, for anything else."""
    return (value for _, value in json_objects(path, where, limits))


def json_objects(path: Path, where: str, limits: SizeLimits = LIMITS) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """As :func:`json_lines`, with the line itself."""
    for number, line in lines(path, where, limits):
        value = loads(line, f"{where}, line {number}")
        if not isinstance(value, dict):
            raise Refused("record", f"a JSON {type(value).__name__}, not an object", f"{where}, line {number}")
        yield line, value


def json_value(path: Path, where: str, limits: SizeLimits = LIMITS) -> Any:
    return loads(json_bytes(path, where, limits), where)


def json_bytes(path: Path, where: str, limits: SizeLimits = LIMITS) -> bytes:
    """A whole .json or .json.gz file, unpacked."""
    if path.name.endswith(".gz"):
        return b"".join(pieces(path, where, replace(limits, file_unpacked=limits.json)))
    return read_plain(path, limits.json, where)
