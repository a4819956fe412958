"""A diversity report from a split to all of its files: what the command and the Python function do alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files, hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity.settings import NO_MODEL, DiversitySettings

EMBEDDED = {"instruction", "embedding"}  # sections that are made of embeddings
DEVICES = ("auto", "cpu", "cuda")
MODELS = {*EMBEDDED, "quality"}  # sections that torch may be needed for


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """`report` is diversity.json (docs/diversity.md); `written` are all files of it below `folder`."""

    report: Mapping[str, Any]
    folder: Path
    written: Sequence[Path]


def check_settings(settings: DiversitySettings) -> DiversitySettings:
    """As far as can be checked before a split is opened. Raises a :class:`UserError`."""
    from fedllm_bench.data.lengths import token_counter

    if settings.seed < 0:
        raise UserError(f"--seed {settings.seed}: give a whole number, 0 or more")
    if "length" in settings.sections:
        token_counter(settings.tokenizer).count([""])
    return settings


def device_of(asked: str) -> str:
    """ "cpu" or "cuda" of "auto", "cpu" or "cuda". Raises a :class:`UserError` where there is no such GPU."""
    if asked == "cuda" and not hardware.has_cuda():
        raise UserError("--device cuda: no CUDA GPU was found; give --device cpu")
    return ("cuda" if hardware.has_cuda() else "cpu") if asked == "auto" else asked


def default_folder(split: Split, other: Split | None) -> Path:
    name = f"{split.name}-{split.hash[:10]}"
    return Path("diversity") / (f"{name}-against-{other.name}-{other.hash[:10]}" if other else name)


def measure(split: Split, settings: DiversitySettings, other: Split | None = None, out: Path | None = None) -> Drawn:
    """Compute, write and draw the report of `split`, compared with `other` where there is one.

    `out` is None for diversity/<split>-<hash>. Raises a :class:`UserError` for a place that cannot be written, and
    for a model that cannot be had; nothing is computed or left behind then.
    """
    folder = out or default_folder(split, other)
    _check_place(folder)
    _fetch(settings)
    if MODELS & set(settings.sections):
        _use_threads()
    from fedllm_bench.diversity.report import build, write_files
    from fedllm_bench.report.diversity import writing  # loads matplotlib

    report, arrays, report_of_other = build(split, settings, other)
    written = list(write_files(report, arrays, report_of_other, folder))
    written += writing.write_report(report, arrays, folder)
    _remove_others(folder, written)
    return Drawn(report=report, folder=folder, written=written)


def _fetch(settings: DiversitySettings) -> None:
    """Models that are named must be there before anything is computed. Raises a :class:`UserError`."""
    from fedllm_bench.config import base_model
    from fedllm_bench.diversity.embedding.encoder import encoder_folder

    if "quality" in settings.sections and settings.quality_model not in (None, NO_MODEL):
        base_model.locate(settings.quality_model)
    if EMBEDDED & set(settings.sections) and settings.embedder is not None:
        encoder_folder(settings.embedder)


def _check_place(out: Path) -> None:
    """Raise a :class:`UserError` where no folder `out` can be made; a command that fails later leaves none behind."""
    above = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        files.make_folder(out)  # it says why not


def _remove_others(out: Path, written: Sequence[Path]) -> None:
    """Remove what an older report left that this one has not: nothing but files of the names that reports have."""
    from fedllm_bench.report.diversity.drawing import FIGURES
    from fedllm_bench.report.style import METADATA

    figures = [out / "figures" / f"{name}.{kind}" for name in FIGURES for kind in METADATA]
    for path in {out / "pairs.parquet", out / "against.json", *figures} - set(written):
        path.unlink(missing_ok=True)


def _use_threads() -> None:
    import torch

    torch.set_num_threads(hardware.num_threads())
