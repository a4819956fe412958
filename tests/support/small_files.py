"""What may stand where a small file of settings is expected."""

from __future__ import annotations

import os
from pathlib import Path


def place_of(kind: str, folder: Path) -> Path:
    """A folder, a pipe that nobody writes to, a link to itself, or a file of a gigabyte of zeros that takes no room."""
    path = folder / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with path.open("wb") as file:
            file.truncate(2**30)
    return path
