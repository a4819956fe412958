"""Fingerprints kept between validations, by the content of submission.json: a board of 500 is read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common import files
from fedllm_bench.leaderboard.checks.fingerprints import VERSION, Fingerprint
from fedllm_bench.leaderboard.submission.schema import MOST_BYTES, SUBMISSION

FINGERPRINT = TypeAdapter(Fingerprint)


def remembered(folder: Path, make: Callable[[Path], Fingerprint | None]) -> Fingerprint | None:
    """The fingerprint of the submission in `folder`, made where none is kept of this submission.json."""
    if (folder / SUBMISSION).stat().st_size > MOST_BYTES:
        return None
    key = files.sha256_json([VERSION, folder.name, files.sha256_file(folder / SUBMISSION)])
    path = files.cache_root() / "board" / f"{key[:40]}.json"
    if found := _read(path):
        return found
    made = make(folder)
    if made is not None:
        files.make_folder(path.parent)
        files.write_bytes(path, FINGERPRINT.dump_json(made))
    return made


def _read(path: Path) -> Fingerprint | None:
    try:
        return FINGERPRINT.validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None
