"""Files that are written whole or not at all, and the hashes that name them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError

# Names stand in paths of run folders, records and mirrors: nothing that could leave a folder.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def cache_root() -> Path:
    """The folder of everything that can be computed or fetched again; $FEDLLM_BENCH_CACHE overrides it."""
    given = os.environ.get("FEDLLM_BENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "fedllm-bench"


def at_home(path: str | Path) -> Path:
    """`path` with the home folder of a user in the place of ~; as it stands where there is no such user, or file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; a :class:`UserError` where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot create the folder {path}: {reason}; give a writable one") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"the folder {path} is not writable; give a writable one")
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write through a temporary neighbour, so that a killed or full-disk write leaves the old file."""
    _write_parts(path, (content,))


def _write_parts(path: Path, parts: Iterable[bytes]) -> None:
    part = path.with_name(path.name + ".part")
    if part.is_symlink():  # in a folder from someone else: it would lead the bytes to another place
        part.unlink()
    try:
        with part.open("wb") as file:
            for content in parts:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk nothing else says which one
            error.filename = str(path)
        raise


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Each of `contents` by its name in `folder`."""
    for name, content in contents.items():
        write_bytes(folder / name, content)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Line by line: no more than a line is in memory at once."""
    _write_parts(path, (f"{canonical_json(row)}\n".encode() for row in rows))


class RepeatedKey(ValueError):
    """A JSON object with one key twice, of which plain `json.loads` would silently keep the last."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` for JSON that users made; raises :class:`RepeatedKey`, which says the key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = str(next(key for key in keys if keys.count(key) > 1))
        raise RepeatedKey(f"the key {twice[:60]!r} twice")
    return found


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_made(path: Path) -> Any:
    """The JSON of a file that can be made anew; None where it is not there, or was changed and is no JSON any more."""
    try:
        return read_json(path) if path.is_file() else None
    except (ValueError, RecursionError):
        return None


def read_jsonl(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: texts may hold U+2028
    return [json.loads(line) for line in lines if line]


def read_jsonl_so_far(path: Path) -> list[Any]:
    """As :func:`read_jsonl`; [] for a file that has not been begun."""
    return read_jsonl(path) if path.is_file() else []


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary neighbour of `target` to fill; it takes the target's place when the block ends well.

    An older folder at `target` is replaced; after an error the old one stays and the new one is removed.
    """
    make_folder(target.parent)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
