"""A zipped submission, unpacked into a folder of our own: only entries with a place in a submission are written."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from fedllm_bench.common.archive import IGNORED, MAX_RATIO, RATIO_COUNTS_FROM, check_entry, read_entry
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.leaderboard.submission.layout import is_known
from fedllm_bench.leaderboard.submission.limits import SizeLimits
from fedllm_bench.leaderboard.submission.listing import few, same_names, shown, too_large
from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.schema import SUBMISSION

END, END64_LOCATOR = b"PK\5\6", b"PK\6\7"
TAIL = 65557  # bytes: the end record with the longest comment
MOST_NAMES = 2**21  # bytes of the central directory, which is read before anything can be counted


def unpack(path: Path, target: Path, limits: SizeLimits) -> list[Problem]:
    """Write the acceptable files of a zip into `target`; a Problem for each other entry."""
    try:
        _check_end(path, limits)
        archive = zipfile.ZipFile(path)
    except Refused as refused:
        return [refused.problem]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return [Problem(code="zip", message=f"not a readable zip ({first_line(error)})")]
    with archive:
        return few(_unpack(archive, target, limits))


def _check_end(path: Path, limits: SizeLimits) -> None:
    """Refuse by the end record alone: `zipfile` would read millions of entries before they could be counted."""
    size = path.stat().st_size
    if size > limits.all_stored:
        raise Refused("too-large", f"{size} bytes; at most {limits.all_stored} are allowed")
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        tail = file.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < 22:
        raise Refused("zip", "not a zip")
    if tail[max(0, at - 20) : at].startswith(END64_LOCATOR):
        raise Refused("zip", "a zip64 archive, which no submission needs; pack it as an ordinary zip")
    entries, names = (
        int.from_bytes(tail[at + 10 : at + 12], "little"),
        int.from_bytes(tail[at + 12 : at + 16], "little"),
    )
    if entries > limits.files + limits.folders or names > MOST_NAMES:
        raise Refused("too-many-files", f"{entries} entries; at most {limits.files} files are allowed")


def _unpack(archive: zipfile.ZipFile, target: Path, limits: SizeLimits) -> list[Problem]:
    entries = [entry for entry in archive.infolist() if not entry.filename.startswith(IGNORED)]
    names = {id(entry): name for entry, name in zip(entries, _names(entries), strict=True)}
    problems, good = [], {}
    for entry in entries:
        name = names[id(entry)]
        found = _problem_of(archive, entry, name, limits)
        if found is None and name in good:
            found = Problem(code="name-twice", message="two entries of one name", where=shown(name))
        if found is not None:
            problems.append(found)
        elif not entry.is_dir():
            good[name] = entry
    problems += same_names(good)
    if (total := sum(entry.file_size for entry in good.values())) > limits.all_stored or len(good) > limits.files:
        return [*problems, too_large(total, limits.all_stored, f"{len(good)} files")]
    return [*problems, *_write(archive, good, target)]


def _names(entries: list[zipfile.ZipInfo]) -> list[str]:
    """Names inside the submission: without the one folder that all may lie in."""
    top = next((e.filename.removesuffix(SUBMISSION) for e in entries if e.filename.count("/") == 1
                and e.filename.endswith(f"/{SUBMISSION}")), "")  # fmt: skip
    inside = bool(top) and all(entry.filename.startswith(top) for entry in entries)
    return [entry.filename.removeprefix(top) if inside else entry.filename for entry in entries]


def _problem_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, limits: SizeLimits) -> Problem | None:
    code, where = _kind(entry), shown(entry.filename)
    try:
        check_entry(Path(archive.filename or ""), entry)
    except UserError as error:
        return Problem(code=code or "zip", message=str(error).partition(": ")[2] or "refused", where=where)
    if entry.is_dir():
        return None
    if entry.file_size > max(RATIO_COUNTS_FROM, MAX_RATIO * entry.compress_size):
        return Problem(code="zip-bomb", message=f"{entry.compress_size} bytes unpack to {entry.file_size}", where=where)
    if entry.file_size > limits.file_stored:
        return too_large(entry.file_size, limits.file_stored, where)
    if not is_known(name):
        return Problem(code="file-unknown", message="no file of a submission has this path; remove it", where=where)
    return None


def _kind(entry: zipfile.ZipInfo) -> str:
    """The code of an entry that is refused for its kind or its name; "" for another reason."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "link" if kind == stat.S_IFLNK else "special-file"
    name = entry.filename
    unsafe = name.startswith("/") or ".." in name.split("/") or any(c in name for c in "\\:\0") or len(name) > 400
    return "unsafe-name" if unsafe else ""


def _write(archive: zipfile.ZipFile, good: dict[str, zipfile.ZipInfo], target: Path) -> Iterator[Problem]:
    for name, entry in good.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                for chunk in read_entry(archive, entry):  # not by name: another entry may have it too
                    file.write(chunk)
        except (UserError, FileExistsError) as error:  # exists: names that differ in case only
            path.unlink(missing_ok=True)
            yield Problem(code="zip", message=f"cannot be unpacked ({first_line(error)[-100:]})", where=shown(name))
