"""What was read of a submission, kept in the cache folder: so building after validating is fast, and building again.

A file's name holds all that its contents hang on: the submission's digest, the records beside it, and the code that
read them. Only this suite writes there, never a submission; a file that does not fit is as good as none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

import fedllm_bench
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.ranking.board import BoardEntry
from fedllm_bench.leaderboard.site.answers_page import answers_page
from fedllm_bench.leaderboard.site.details import Details, details_of
from fedllm_bench.leaderboard.site.entries import entry_of
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.recompute import SeedScores

FOLDER = "board"
CODE = ("*.py", "*.toml", "*.jinja", "*.js", "*.css")
FAST = 1  # of zlib's levels: a third of the size in a tenth of the time of the best one
MOST_BYTES = 2**28  # of a kept file, unpacked
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KeptReading:
    """`answers` is the page of answers, None where there are none."""

    entry: BoardEntry
    details: Details
    answers: str | None


def kept_of(bundle: Bundle, scores: Sequence[SeedScores]) -> KeptReading:
    """`scores` are those of the runs, by seed. Raises a :class:`UserError` for records that make no page."""
    answers = answers_page(bundle, scores)
    return KeptReading(entry=entry_of(bundle, scores), details=details_of(bundle, scores), answers=answers)


def load(bundle: Bundle) -> KeptReading | None:
    """What was kept of this very content by this very code, else None."""
    try:
        unpack = zlib.decompressobj()
        content = unpack.decompress(file_of(bundle).read_bytes(), MOST_BYTES)
        found = _adapter().validate_json(content) if unpack.eof else None
    except (OSError, UserError, ValueError, zlib.error):
        return None
    return found if found and (found.entry.slug, found.entry.digest) == (bundle.folder.name, bundle.digest) else None


def save(bundle: Bundle, kept: KeptReading) -> None:
    """Nothing is kept where the cache cannot be written, or JSON cannot hold it exactly."""
    try:
        value = _adapter().dump_python(kept)
        content = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        path = file_of(bundle)
        files.make_folder(path.parent)
        files.write_bytes(path, zlib.compress(content, FAST))
    except (OSError, UserError, TypeError, ValueError) as error:
        log.debug("not kept: %s", error)


def file_of(bundle: Bundle) -> Path:
    records = {name: files.sha256_file(path) for name, path in sorted(bundle.records.items())}
    key = files.sha256_json([bundle.folder.name, bundle.digest, records, code_hash()])
    return files.cache_root() / FOLDER / f"{key[:40]}.read"


@functools.cache
def _adapter() -> TypeAdapter[KeptReading]:
    return TypeAdapter(KeptReading)


@functools.cache
def code_hash() -> str:
    """Of all code and templates, and of the library that sums: a change anywhere reads every submission again."""
    root = Path(fedllm_bench.__file__).resolve().parent
    found = {path.resolve() for pattern in CODE for path in root.rglob(pattern)}
    found.add(Path(str(package_files("fedllm_bench.board_data").joinpath("tracks.toml"))).resolve())
    digest = hashlib.sha256(np.__version__.encode())
    for path in sorted(found):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
