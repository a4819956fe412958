"""The folder of one program: made empty, and removed with whatever the program left in it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path


@contextmanager
def new_box() -> Iterator[str]:
    """An empty folder, which is gone at the end, as far as the system lets us."""
    box = tempfile.mkdtemp(prefix="fedllm-bench-")
    try:
        yield box
    finally:
        try:
            shutil.rmtree(box)
        except (OSError, RecursionError):
            with suppress(OSError):
                flatten(Path(box))
            shutil.rmtree(box, ignore_errors=True)


def flatten(box: Path) -> None:
    """Remove what lies in the folders of `box`. They may be closed even to whoever made them, or lie in each other ten
    thousand deep, which `shutil.rmtree` cannot follow: so each is moved up into `box` before it is looked into."""
    name = secrets.token_hex(8)  # none that a program could have taken
    places = (box / f"{name}-{number}" for number in count())
    box.chmod(0o700)
    waiting = [box]
    while waiting:
        folder = waiting.pop()
        waiting += [_moved(inner, next(places)) for inner in _folders(folder)]
        if folder != box:
            shutil.rmtree(folder)


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _moved(folder: Path, place: Path) -> Path:
    folder.chmod(0o700)
    return folder.rename(place)
