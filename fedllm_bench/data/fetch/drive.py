"""Files on Google Drive, by gdown: it follows the page that Drive puts before a large file, and resumes after a cut."""

from __future__ import annotations

import sys
from pathlib import Path

from filelock import FileLock

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import make_folder
from fedllm_bench.data.fetch.download import GIB, TIMEOUT_SECONDS, Check, Unreachable

RETRIES = 4
MAX_BYTES = 4 * GIB


def from_drive(address: str, target: Path, check: Check) -> Path:
    """Put the file at a Drive address to `target`, once `check` accepted it.

    Raises as :func:`fedllm_bench.data.fetch.download.download` does. What came before a cut is kept for the next call.
    """
    import gdown
    from gdown.exceptions import DownloadError

    make_folder(target.parent)
    part = target.with_name(f"{target.name}.drive")
    with FileLock(f"{target}.lock"):
        try:
            with network.blamed(network.REQUESTS):
                gdown.download(
                    address,
                    str(part),
                    quiet=not sys.stderr.isatty(),
                    use_cookies=False,
                    resume=True,
                    timeout=TIMEOUT_SECONDS,
                    retries=RETRIES,
                    progress=_bounded,
                )
        except (DownloadError, OSError) as error:  # requests raises OSErrors
            raise Unreachable(f"{address}: {_words(error)}{network.via(address)}") from error
        try:
            check(part)
        except UserError as error:
            part.unlink()
            raise UserError(f"{address}: {error}") from error
        part.replace(target)
    return target


def _bounded(done_bytes: int, total_bytes: int | None) -> None:
    if max(done_bytes, total_bytes or 0) > MAX_BYTES:
        raise UserError(f"the file on Google Drive has more than the {MAX_BYTES} bytes that are allowed")


def _words(error: object) -> str:
    """What was wrong, without the layers of libraries around it."""
    line = first_line(error)
    return line.rpartition("(Caused by ")[2].removesuffix(")")[:300]
