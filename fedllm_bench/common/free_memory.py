"""How much memory a new process may take on this machine, by what Linux says; nothing is loaded for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMINFO = Path("/proc/meminfo")
GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
KIB = 1024
# Of a group's memory: its limit, what it has, and the part of that which files in the page cache take.
NEW, OLD = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
REUSABLE = ("inactive_file", "active_file")  # of memory.stat; the kernel takes them back before it ends a process


def available_memory(meminfo: Path = MEMINFO, groups: Path = GROUPS, mount: Path = MOUNT) -> int | None:
    """Bytes that can be had without swapping, within the limits of the control groups (v1, v2) of this process.

    None where the kernel does not say.
    """
    free = _of_machine(meminfo)
    if free is None:
        return None
    return max(0, min([free, *_of_groups(groups, mount)]))


def _of_machine(meminfo: Path) -> int | None:
    for line in text_of(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and (number := number_in(value.split()[0] if value.split() else "")) is not None:
            return number * KIB
    return None


def _of_groups(groups: Path, mount: Path) -> Iterator[int]:
    """What is left of the limit of each group that holds this process, from its own up to the outermost one."""
    for folder, is_new in places_of_groups("memory", groups, mount):
        if (left := _left(folder, *(NEW if is_new else OLD))) is not None:
            yield left


def places_of_groups(kind: str, groups: Path = GROUPS, mount: Path = MOUNT) -> Iterator[tuple[Path, bool]]:
    """The folders of the control groups that hold this process, from its own up, and whether they are of version 2.

    `kind` is what they are about, as "memory"; a group of version 2 is about everything.
    """
    for line in text_of(groups).splitlines():
        kinds, path = [*line.split(":", 2), "", ""][1:3]
        if kinds and kind not in kinds.split(","):
            continue
        root = mount / kind if kinds else mount
        place = PurePosixPath(path.lstrip("/"))
        if ".." in place.parts:  # a group outside of what this process sees
            place = PurePosixPath()
        yield from ((root / folder, not kinds) for folder in [place, *place.parents])


def _left(folder: Path, limit_file: str, usage_file: str) -> int | None:
    """Bytes left of a group's limit; None where it has none ("max", or a number larger than any memory)."""
    limit, usage = number_in(text_of(folder / limit_file)), number_in(text_of(folder / usage_file))
    if limit is None or usage is None or limit >= 2**60:
        return None
    fields = dict(line.split()[:2] for line in text_of(folder / "memory.stat").splitlines() if len(line.split()) > 1)
    reusable = sum(number_in(fields.get(name, "")) or 0 for name in REUSABLE)
    return limit - max(0, usage - reusable)


def text_of(path: Path) -> str:
    """ "" where the file is not there, or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def number_in(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else None
