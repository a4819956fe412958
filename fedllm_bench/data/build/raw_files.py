"""Which files hold raw rows, and what a file is that holds none: a pointer, a web page, another kind of archive."""

from __future__ import annotations

import functools
import gzip
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, cast

from fedllm_bench.common import foreign
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.foreign import FETCH, HEAD_BYTES

ENDINGS = (".parquet", ".arrow", ".csv", ".jsonl", ".json", ".ndjson")
# What downloads and `datasets` put beside the rows; `datasets` passes over the first four as well.
METADATA = (
    *("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
    *("croissant.json", "datapackage.json", "dataset-metadata.json", "metadata.json", "package.json"),
)
CACHE_OF_DATASETS = re.compile(
    r"(cache|indices)-.*\.arrow|tmp.*\.arrow"
)  # results of map and filter, no rows of their own
# The words by which Hugging Face `datasets` finds the split in a file name.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
GZIP = b"\x1f\x8b"
# How a file begins, what it is, what to do. What begins otherwise is left to the reader of its ending.
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"PK\x05\x06", "an empty zip archive", FETCH),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"BZh9", "packed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "packed with xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it with unzstd"),
    (GZIP, "packed with gzip", "give it a name that ends in .gz"),
    (b"PAR1", "parquet", "give it a name that ends in .parquet"),
    (b"ARROW1", "an Arrow file", "give it a name that ends in .arrow"),
    (b"SQLite format 3\x00", "an SQLite data base", "export its rows as parquet or JSON lines"),
)
OWN_KINDS = {".parquet": b"PAR1", ".arrow": b"ARROW1"}


def raw_files(path: Path) -> list[Path]:
    """The readable files at `path`, a file or a folder with its sub-folders, in order of name."""
    allowed = f"{', '.join(ENDINGS)}, each also with .gz"
    if not path.exists():
        raise UserError(f"no raw rows at {path}: no such file or folder")
    if path.is_dir():
        if not (files := [file for file in _inside(path) if _holds_rows(file)]):
            raise UserError(f"no raw rows in {path}: none of its files ends in {allowed}")
        _refuse_incomplete(path, files)
        return files
    if ending(path) not in ENDINGS:
        raise UserError(f"cannot read {path}: its name must end in {allowed}")
    return [path]


def _refuse_incomplete(folder: Path, files: Sequence[Path]) -> None:
    """Links that lead nowhere, and several versions of one data set in the cache of the hub's client."""
    for file in files:
        if not file.exists():
            raise UserError(f"{file} is a link to a file that is not there; fetch it, or remove the link")
    versions = {parts[1] for file in files if (parts := file.relative_to(folder).parts)[0] == "snapshots"}
    if len(versions) > 1:
        one = folder / "snapshots" / min(versions)
        raise UserError(f"{folder} holds {len(versions)} versions of one data set; give one of them, such as {one}")


def passed_over(path: Path) -> list[str]:
    """The names of the visible files in a folder that are not read: metadata, and what has another ending."""
    return [relative_name(file, path) for file in _inside(path) if not _holds_rows(file)] if path.is_dir() else []


def _inside(folder: Path) -> list[Path]:
    visible = (file for file in folder.rglob("*") if _is_visible(file.relative_to(folder)))
    return sorted(file for file in visible if file.is_file() or (file.is_symlink() and not file.exists()))


def _holds_rows(file: Path) -> bool:
    is_metadata = file.name.lower() in METADATA or CACHE_OF_DATASETS.fullmatch(file.name)
    return ending(file) in ENDINGS and not is_metadata


def _is_visible(relative: Path) -> bool:
    return not any(part.startswith(".") for part in relative.parts)  # .cache, .git and the like


def relative_name(file: Path, path: Path) -> str:
    """How a file below `path` is called in records and manifests."""
    return file.name if file == path else file.relative_to(path).as_posix()


@functools.cache
def split_of_name(name: str) -> str:
    """The upstream split that a relative name states: train, validation or test; train by default.

    A word of the file name goes before the name of a folder, such as test/0000.parquet.
    """
    *folders, file = name.lower().split("/")
    words = [*re.split(r"[-._ 0-9]+", file), *reversed(folders)]
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")


def ending(file: Path) -> str:
    """The ending that says the format, in lower case; that of gzip goes first."""
    name = file.with_suffix("") if _is_packed(file) else file
    return name.suffix.lower()


def _is_packed(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


def refuse_foreign(file: Path) -> None:
    """A :class:`UserError` for a file whose first bytes say that it is something else than its name does."""
    own = OWN_KINDS.get(ending(file), b"")
    with file.open("rb") as raw:
        head = raw.read(HEAD_BYTES)
    if not head and (_is_packed(file) or own):
        raise UserError(f"{file} is empty (0 bytes); {FETCH}")
    if not _is_packed(file):
        _refuse_kind(f"{file} is", head, own)
        return
    _refuse_kind(f"{file} is", head, GZIP)
    if head.startswith(GZIP):
        with open_raw(file) as packed:
            inner = packed.read(HEAD_BYTES)
        if inner.startswith(GZIP):
            raise UserError(f"{file} is packed with gzip twice; unpack it once")
        _refuse_kind(f"{file} is, once unpacked,", inner, own)


def _refuse_kind(begin: str, head: bytes, own: bytes) -> None:
    kinds = (f"{what}; {advice}" for start, what, advice in KINDS if start != own and head.startswith(start))
    if found := foreign.told(head) or next(kinds, None):
        raise UserError(f"{begin} {found}")


def open_raw(file: Path) -> AbstractContextManager[IO[bytes]]:
    # GzipFile is an IO[bytes] in all but its type stub.
    return cast("IO[bytes]", gzip.open(file, "rb")) if _is_packed(file) else file.open("rb")


def open_seekable(file: Path) -> AbstractContextManager[IO[bytes]]:
    """Parquet is read from its end, so a gzip one is unpacked first, to disk rather than into memory."""
    if not _is_packed(file):
        return file.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with open_raw(file) as packed:
            shutil.copyfileobj(packed, unpacked, 2**20)
    except BaseException:
        unpacked.close()
        raise
    unpacked.seek(0)
    return unpacked
