"""What commands say to the user, and files that they write on request."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError


def say(line: str) -> None:
    """A line for the user; what a terminal cannot spell is escaped rather than fatal."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def say_json(path: Path | None, payload: dict[str, Any]) -> None:
    """Write what was said as JSON too, where a path was given."""
    if path is None:
        return
    try:
        files.make_folder(path.parent)
        files.write_json(path, payload)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give --json elsewhere") from error
    say(f"JSON      {path}")
