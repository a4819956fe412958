"""A zip that somebody else made, read without unpacking it: nothing is written, and nothing is believed."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fedllm_bench.common.errors import UserError, first_line

MAX_ENTRIES = 1000
MAX_ENTRY_BYTES = 2 * 2**30  # ten times the largest published file, by its number of tokens
MAX_RATIO = 200  # JSON texts of people pack about 4 to 1; deflate itself ends at 1032
RATIO_COUNTS_FROM = 2**20  # bytes: below, a small test file of equal lines would be refused
CHUNK = 2**20
IGNORED = ("__MACOSX/",)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip at `path`, once the names and kinds of all its entries were checked; else a :class:`UserError`."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable zip ({first_line(error)}); fetch it again") from error
    with archive:
        entries = archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise UserError(f"{path} has {len(entries)} entries; at most {MAX_ENTRIES} are allowed")
        for entry in entries:
            check_entry(path, entry)
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise UserError(f"{path} has two entries of one name; it is refused")
        yield archive


def check_zip(path: Path) -> None:
    """Refuse a file that is no acceptable zip; a web page, which Google Drive may send instead, by its name."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        raise UserError("a web page came instead of the zip (sign-in, or too many downloads today)")
    with open_zip(path) as archive:
        for name in files_of(archive):  # to the last byte: what is cached must be whole
            for _ in read_entry(archive, name):
                pass


def files_of(archive: zipfile.ZipFile) -> list[str]:
    """The names of the files, without folders and what macOS adds."""
    return [e.filename for e in archive.infolist() if not e.is_dir() and not e.filename.startswith(IGNORED)]


def read_entry(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of an entry, chunk by chunk; a :class:`UserError` once they are too many or broken."""
    entry = archive.getinfo(name) if isinstance(name, str) else name
    where = f"{archive.filename}: {entry.filename}"
    packed, done = entry.compress_size, 0
    try:
        with archive.open(entry) as file:
            while chunk := file.read(CHUNK):
                done += len(chunk)
                if done > MAX_ENTRY_BYTES or done > max(RATIO_COUNTS_FROM, MAX_RATIO * packed):
                    raise UserError(f"{where} unpacks to more than {done - 1} bytes from {packed}: a zip bomb, refused")
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{where} cannot be unpacked ({first_line(error)}); fetch the zip again") from error


def check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    """Raise a :class:`UserError` for an entry that could leave its folder, or is no plain file that can be read."""
    name, shown = entry.filename, repr(entry.filename[:100])
    parts = PurePosixPath(name).parts
    unsafe = "\\" in name or "\0" in name or ":" in name
    if unsafe or not parts or name.startswith("/") or ".." in parts or len(name) > 400:
        raise UserError(f"{path} has an entry {shown} that could leave its folder; the zip is refused")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path}: entry {shown} is a link or device, not a file; the zip is refused")
    if entry.flag_bits & 0x1:
        raise UserError(f"{path}: entry {shown} is encrypted; unpack and pack it again without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: entry {shown} is packed by an unusual method; pack it as an ordinary zip")
    if entry.file_size > MAX_ENTRY_BYTES:
        raise UserError(f"{path}: entry {shown} claims {entry.file_size} bytes; at most {MAX_ENTRY_BYTES} are allowed")
