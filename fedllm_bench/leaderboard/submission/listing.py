"""The files of a stranger's folder: what is there, without following or opening anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedllm_bench.leaderboard.submission.layout import DEPTH, is_known
from fedllm_bench.leaderboard.submission.limits import SizeLimits
from fedllm_bench.leaderboard.submission.problems import Problem

SHOWN = 20  # problems of one code that are told one by one


@dataclass
class Listing:
    """Files by path inside the folder, in order, and what is wrong with the rest."""

    files: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def list_folder(folder: Path, limits: SizeLimits) -> Listing:
    """Every plain file with a place in a submission and an allowed size; a Problem for each other entry."""
    listing = Listing()
    sizes: dict[str, int] = {}
    for count, (path, entry) in enumerate(_walk(folder, "", 1)):
        if count >= limits.files + limits.folders:
            text = f"more than {limits.files} files in {limits.folders} folders"
            listing.problems.append(Problem(code="too-many-files", message=text))
            break
        mode, size = _mode_and_size(entry)
        found = _problem_of(path, mode, size, limits)
        if found is not None:
            listing.problems.append(found)
        elif entry is not None and stat.S_ISREG(mode):
            listing.files[path] = Path(entry.path)
            sizes[path] = size
    listing.problems += [*same_names(listing.files), *_too_large(sizes, limits)]
    listing.problems = few(listing.problems)
    return listing


def _walk(folder: Path, inside: str, depth: int) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
    """Entries with their paths, files before folders; None for a folder that cannot be read."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: (entry.is_dir(follow_symlinks=False), entry.name))
    except OSError:
        yield inside, None
        return
    for entry in entries:
        path = f"{inside}/{entry.name}" if inside else entry.name
        yield path, entry
        if entry.is_dir(follow_symlinks=False) and depth < DEPTH:
            yield from _walk(Path(entry.path), path, depth + 1)


def _mode_and_size(entry: os.DirEntry[str] | None) -> tuple[int, int]:
    """Of the entry itself, were it a link; (0, 0) for one that cannot be read, or went meanwhile."""
    try:
        about = entry.stat(follow_symlinks=False) if entry is not None else None
    except OSError:
        about = None
    return (about.st_mode, about.st_size) if about is not None else (0, 0)


def _problem_of(path: str, mode: int, size: int, limits: SizeLimits) -> Problem | None:
    where = shown(path)
    if mode == 0:
        return Problem(code="unreadable", message="it cannot be read", where=where)
    if stat.S_ISLNK(mode):
        return Problem(code="link", message="a link; put the file itself there", where=where)
    if stat.S_ISDIR(mode):
        return None if path.count("/") < DEPTH - 1 else _unknown(where)
    if not stat.S_ISREG(mode):
        return Problem(code="special-file", message="a device, pipe or socket, not a file", where=where)
    if not is_known(path):
        return _unknown(where)
    return too_large(size, limits.file_stored, where) if size > limits.file_stored else None


def _unknown(where: str) -> Problem:
    return Problem(code="file-unknown", message="no file of a submission has this path; remove it", where=where)


def too_large(size: int, most: int, where: str) -> Problem:
    return Problem(code="too-large", message=f"{size} bytes; at most {most} are allowed", where=where)


def _too_large(sizes: dict[str, int], limits: SizeLimits) -> Iterator[Problem]:
    if len(sizes) > limits.files:
        yield Problem(code="too-many-files", message=f"{len(sizes)} files; at most {limits.files} are allowed")
    if sum(sizes.values()) > limits.all_stored:
        yield too_large(sum(sizes.values()), limits.all_stored, "")


def same_names(paths: Iterable[str]) -> Iterator[Problem]:
    """Paths that are one file on a system that does not tell upper from lower case."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            yield Problem(code="name-twice", message=f"differs from {other} in case only", where=path)


def shown(path: str) -> str:
    """A stranger's path for a message: short, and in ASCII."""
    text = ascii(path)[1:-1]
    return text if len(text) <= 160 else f"{text[:160]}..."


def few(problems: list[Problem]) -> list[Problem]:
    """At most SHOWN of each code, and one line that counts the rest."""
    kept: list[Problem] = []
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.code] = counts.get(problem.code, 0) + 1
        if counts[problem.code] <= SHOWN:
            kept.append(problem)
    rest = {code: count - SHOWN for code, count in counts.items() if count > SHOWN}
    return kept + [Problem(code=code, message=f"and {count} more of these") for code, count in rest.items()]
