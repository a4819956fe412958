"""Folders that are computed once: each is named by what its contents depend on, and is there whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from fedllm_bench.common import files

log = logging.getLogger(__name__)
T = TypeVar("T")
SECONDS_OF_SILENCE = 5.0


def key_of(depends_on: Any) -> str:
    """The name of a folder: the first 20 digits of the hash of all that its contents depend on, as JSON data."""
    return files.sha256_json(depends_on)[:20]


def cached(place: Path, key: str, make: Callable[[Path], object], read: Callable[[Path], T | None]) -> T:
    """What `read` finds in the folder `place`/`key`, which `make` fills where it is not there.

    `read` gives None for a folder that is not there, is damaged or does not fit; then it is made anew, in a temporary
    neighbour. Of several processes that start together one makes it and the others wait and read. Errors of `make`
    are passed on and leave the folder as it was. The lock lies beside `place`, in `locks`.
    """
    folder = place / key
    found = read(folder)
    if found is not None:
        return found
    locks = files.make_folder(place.parent / "locks")
    with _held(FileLock(locks / f"{place.name}-{key}.lock"), place.name):
        found = read(folder)  # another process may have made it by now
        if found is None:
            with files.new_folder(folder) as part:
                make(part)
            found = read(folder)
    if found is None:
        raise RuntimeError(f"{folder} was just made and cannot be read")
    return found


@contextmanager
def _held(lock: FileLock, what: str) -> Iterator[None]:
    """The lock, with a line on a long wait for the process that has it."""
    try:
        lock.acquire(timeout=SECONDS_OF_SILENCE)
    except Timeout:
        log.info("another process is making the same %s; waiting for it", what.replace("_", " "))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
