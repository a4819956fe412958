"""Files from the network, a mirror or a disk: resumed after a cut, checked, and put in place whole or not at all.

Beside the target, `NAME.part` holds what came so far and `NAME.part.json` the validator (ETag or Last-Modified)
of the file that it is part of, so that a file that changed in the meantime starts anew.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from fedllm_bench.common import network
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.files import make_folder, sha256_file, write_json
from fedllm_bench.common.progress import track
from fedllm_bench.common.retry_after import wait_seconds

log = logging.getLogger(__name__)
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)  # before each further try
LONGEST_WAIT_SECONDS = 60.0  # a server that asks for more is left alone
TIMEOUT_SECONDS = 30.0
CHUNK = 2**20
GIB = 2**30
TRY_LATER = (429, 500, 502, 503, 504)
CUT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, TimeoutError, http.client.HTTPException)
Check = Callable[[Path], None]


class Unreachable(UserError):
    """The address did not give the file; the caller adds what else can be done."""


class Transient(Exception):
    """A failure that another try may mend; `wait_seconds` is what the server asked for."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class PartState:
    """Of which version of which file a `.part` is a part; `total` is None where the server did not say."""

    address: str
    validator: str
    total: int | None


def is_url(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def local_path(address: str) -> Path | None:
    """The path that a file URL or a plain path means; None for an address on the network."""
    if is_url(address):
        return None
    if address.startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))
    return Path(address)


def join(base: str, name: str) -> str:
    """The address of a file below a folder or URL; the name is a checked one, with '/' between its parts."""
    if is_url(base) or base.startswith("file://"):
        return f"{base.rstrip('/')}/{urllib.parse.quote(name)}"
    return str(Path(base) / name)


def sha256_is(expected: str) -> Check:
    """A check that refuses, with a :class:`UserError`, a file of another sha256."""

    def check(path: Path) -> None:
        if (got := sha256_file(path)) != expected:
            raise UserError(f"sha256 {got[:16]}, not {expected[:16]}: the file was changed, and it is not kept")

    return check


def download(address: str, target: Path, check: Check, *, max_bytes: int = 4 * GIB) -> Path:
    """Put the file at `address` (http, https, file or a path) to `target`, once `check` accepted it.

    Raises :class:`Unreachable` where it cannot be had, and :class:`UserError` for one that is too large or that
    `check` refuses; neither leaves anything under the name `target`.
    """
    make_folder(target.parent)
    part = target.with_name(f"{target.name}.part")
    with FileLock(f"{target}.lock"):
        path = local_path(address)
        if path is None:
            _fetch(address, part, max_bytes)
        else:
            _copy(path, part, max_bytes)
        try:
            check(part)
        except UserError as error:
            _forget(part)
            raise UserError(f"{address}: {error}") from error
        part.replace(target)
        _forget(part)
    return target


def _copy(path: Path, part: Path, max_bytes: int) -> None:
    _forget(part)
    if not path.is_file():
        raise Unreachable(f"{path} is no file")
    if path.stat().st_size > max_bytes:
        raise UserError(f"{path} has {path.stat().st_size} bytes; at most {max_bytes} are allowed")
    try:
        with path.open("rb") as source, part.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    except PermissionError as error:
        raise Unreachable(f"{path} cannot be read ({error.strerror})") from error


def _fetch(address: str, part: Path, max_bytes: int) -> None:
    """Try, wait and try again; a try that brought at least a chunk does not count against the number of tries."""
    network.proxy_of(address, by_urllib=True)  # a wrong variable is named before anything is tried
    tries = 0
    while True:
        before = _size(part)
        try:
            _attempt(address, part, max_bytes)
            return
        except Transient as error:
            tries = 1 if _size(part) - before >= CHUNK else tries + 1
            if tries > len(WAITS_SECONDS) or error.wait_seconds > LONGEST_WAIT_SECONDS:
                later = f", try again in {error.wait_seconds:.0f} s" if error.wait_seconds else ""
                kept = f"; {_size(part)} bytes are kept and the next try goes on from there" if _size(part) else ""
                raise Unreachable(f"{address}: {error}, gave up after {tries} tries{later}{kept}") from error
            wait = max(WAITS_SECONDS[tries - 1], error.wait_seconds)
            log.info("%s: %s; next try in %.0f s", address, error, wait)
            time.sleep(wait)


def _attempt(address: str, part: Path, max_bytes: int) -> None:
    state, have = _read_state(part, address), _size(part)
    if state and have == state.total:
        return
    headers = {"User-Agent": "fedllm-bench", "Accept-Encoding": "identity"}
    if state and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    with _open(urllib.request.Request(address, headers=headers), part) as response:
        start = _start(response, state, have)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        if max(start, total or 0) > max_bytes:
            _forget(part)
            raise UserError(f"{address} has {total} bytes; at most {max_bytes} are allowed")
        _write_state(part, PartState(address, _validator(response), total))
        _save(response, part, start=start, total=total, max_bytes=max_bytes)


def _open(request: urllib.request.Request, part: Path) -> Any:
    """The open response; http(s) only, whatever a redirect says."""
    address, via = request.full_url, network.via(request.full_url, by_urllib=True)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file is shorter than what we have of it
            _forget(part)
            raise Transient("the file changed") from error
        if error.code in TRY_LATER:
            wait = wait_seconds(error.headers) or 0.0
            raise Transient(f"answer {error.code} {error.reason}", wait) from error
        raise Unreachable(f"{address}: answer {error.code} {error.reason}{via}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, CUT):
            raise Transient(f"connection cut ({error.reason})") from error
        if isinstance(error.reason, ssl.SSLError):
            network.ssl_context(address)  # names certificates of the environment that are none
        raise Unreachable(f"cannot reach {address} ({first_line(error.reason)}){via}") from error
    except CUT as error:
        raise Transient(f"connection cut ({first_line(error)})") from error
    except (OSError, ValueError) as error:
        raise Unreachable(f"cannot reach {address} ({first_line(error)}){via}") from error


def _start(response: Any, state: PartState | None, have: int) -> int:
    """Where the bytes of the answer belong: after what we have, or at 0 if the server sends all of the file."""
    if response.status != 206:
        return 0
    given = response.headers.get("Content-Range", "")
    if state is None or not given.startswith(f"bytes {have}-") or _validator(response) not in ("", state.validator):
        raise Unreachable(f"{response.url}: the server answered with bytes that were not asked for")
    return have


def _validator(response: Any) -> str:
    """A strong ETag, else the date of the last change, else "" (then nothing can be resumed)."""
    etag = response.headers.get("ETag", "")
    return str(etag if etag.startswith('"') else response.headers.get("Last-Modified", ""))


def _save(response: Any, part: Path, *, start: int, total: int | None, max_bytes: int) -> None:
    done = start
    label = f"{part.name.removesuffix('.part')} (MiB)"
    with part.open("ab" if start else "wb") as file:
        for chunk in track(_chunks(response, file), label, -(-(total or 0) // CHUNK), start // CHUNK):
            done += len(chunk)
            if done > max_bytes:
                _forget(part)
                raise UserError(f"{response.url} has more than the {max_bytes} bytes that are allowed")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise Transient(f"connection cut after {done} of {total} bytes")


def _chunks(response: Any, file: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (*CUT, ssl.SSLError) as error:
        file.flush()  # what came is kept for the next try
        raise Transient(f"connection cut ({first_line(error)})") from error


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path, address: str) -> PartState | None:
    """What is known of a part; None where it is of another address or cannot be resumed."""
    try:
        state = PartState(**json.loads(_state_path(part).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.address == address and state.validator and part.exists() else None


def _write_state(part: Path, state: PartState) -> None:
    write_json(_state_path(part), asdict(state))


def _forget(part: Path) -> None:
    for path in (part, _state_path(part)):
        path.unlink(missing_ok=True)
