"""Where a submission is written: its folder's name, and what may already lie there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission.bundle import open_bundle
from fedllm_bench.leaderboard.submission.problems import refusals
from fedllm_bench.leaderboard.submission.schema import Submission

SLUG = 60  # characters


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A submission that is ready to be written: path inside -> bytes."""

    submission: Submission
    contents: Mapping[str, bytes]
    digest: str


def write_files(contents: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def folder_name(submission: Submission) -> str:
    """<date>_<slug>, of the track, the method and the team."""
    parts = (submission.track.replace("/", "-"), submission.method, submission.team)
    return f"{submission.date}_{'-'.join(map(_slug, parts))[:SLUG].rstrip('-')}"


def _slug(text: str) -> str:
    """In letters that every system can store; of a name without any, digits of its hash."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    whole = all(
        not c.isalnum() or c.isascii() for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)
    )
    return slug if slug and whole else "-".join(filter(None, (slug, files.sha256_json(text)[:8])))


def write(made: Draft, root: Path) -> Path:
    """The submission in its folder under `root`, whole or not at all; an unchanged one is left as it is.

    Raises a :class:`UserError` where the folder is somebody else's, or already verified by a maintainer.
    """
    target = root / folder_name(made.submission)
    if target.exists() or target.is_symlink():
        if _is_same(target, made):
            return target
        _check_own(target, made.submission)
    with files.new_folder(target) as part:
        write_files(made.contents, part)
    return target


def _is_same(target: Path, made: Draft) -> bool:
    found, problems = open_bundle(target)
    return found is not None and not refusals(problems) and found.digest == made.digest


def _check_own(target: Path, submission: Submission) -> None:
    found, _ = open_bundle(target, contents=False) if target.is_dir() and not target.is_symlink() else (None, [])
    if found is None:
        raise UserError(f"{target} exists and is no submission; remove it, or give --out another folder")
    theirs = found.submission
    if (theirs.team, theirs.contact, theirs.method) != (submission.team, submission.contact, submission.method):
        raise UserError(f"{target} is a submission of {theirs.team!r}; give another --method or --date")
    if found.records:
        raise UserError(f"{target} was verified by a maintainer, and its records hold for what it is now; give "
                        "another --date, so that the changed runs are a submission of their own")  # fmt: skip
