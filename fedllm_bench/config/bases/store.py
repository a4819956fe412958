"""Converted bases in the cache: made once, whole or not at all, and found again by what they were made of."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedllm_bench.common import cache, files
from fedllm_bench.config import model_files
from fedllm_bench.config.bases import terms
from fedllm_bench.config.bases.converting import check_gguf, convert
from fedllm_bench.config.bases.declared import Base
from fedllm_bench.config.bases.labels import ABOUT, UNPACKED
from fedllm_bench.config.bases.packages import fetch_gguf

log = logging.getLogger(__name__)
VERSION = 1  # of what conversion writes


def place_of(base: Base) -> Path:
    """The folder of the converted base, whether it is there or not. Only for bases that come packed."""
    if base.gguf is None:
        raise AssertionError(base.name)
    return _root() / f"{base.name}-{base.gguf.sha256[:12]}-v{VERSION}"


def found(base: Base) -> Path | None:
    """The folder of the converted base; None where it must be fetched first."""
    return _read(place_of(base))


def get(base: Base) -> Path:
    """The folder of the converted base, which is fetched and converted where it is not there.

    Raises a :class:`UserError` for terms that were not accepted, and where it cannot be fetched.
    """
    ready = found(base)
    if ready is not None:
        return ready
    terms.check_consent(base)
    started = time.monotonic()
    folder = _made(place_of(base), lambda part: _make_base(base, part))
    log.info("%s: ready in %.0f s", base.name, time.monotonic() - started)
    return folder


def get_file(gguf: Path) -> Path:
    """The folder that the user's own GGUF file was converted into; one for each content, wherever it lies."""
    check_gguf(gguf, str(gguf))
    sha256 = files.sha256_file(gguf)
    about = {"label": UNPACKED, "source": "file", "sha256": sha256, "note": UNPACKED}

    def make(part: Path) -> None:
        convert(gguf, part, str(gguf))
        files.write_json(part / ABOUT, about)

    return _made(_root() / f"file-{sha256[:20]}-v{VERSION}", make)


def _make_base(base: Base, part: Path) -> None:
    scratch = part / "fetched"
    scratch.mkdir()
    gguf, texts = fetch_gguf(base, scratch)
    convert(gguf, part, base.name)
    shutil.rmtree(scratch)
    files.write_all(part, terms.texts_of_base(base, texts))
    files.write_json(part / ABOUT, about(base))


def shape_of(base: Base) -> Path:
    """A folder with a config.json of the declared shape and nothing else."""
    folder = files.make_folder(_root() / "shapes" / f"{base.name}-{cache.key_of(dict(base.config))}")
    if not (folder / model_files.CONFIG).is_file():
        files.write_json(folder / model_files.CONFIG, dict(base.config))
    return folder


def about(base: Base) -> dict[str, Any]:
    """base.json: what the folder holds. No place and no time, so that it is the same everywhere."""
    if base.gguf is None:
        raise AssertionError(base.name)
    return {
        "name": base.name,
        "label": base.label,
        "note": base.note,
        "source": [f"{wheel.name}=={wheel.version}" for wheel in base.gguf.packages],
        "file": base.gguf.file,
        "sha256": base.gguf.sha256,
        "original": {"hub": base.hub, "revision": base.revision},
        "upstream": base.gguf.upstream,
        "licence": {"name": base.licence.name, "link": base.licence.link},
    }


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    def fill(part: Path) -> None:
        for old in folder.parent.glob(f"{folder.name}.*.part"):  # of a process that was killed
            if old != part:
                shutil.rmtree(old, ignore_errors=True)
        make(part)

    return cache.cached(folder.parent, folder.name, fill, _read)


def _read(folder: Path) -> Path | None:
    """The folder, where it is whole; None for another one, which is then made anew."""
    return folder if (folder / ABOUT).is_file() and model_files.problem(folder) is None else None


def _root() -> Path:
    return files.cache_root() / "bases"
