"""Aya: each client is one annotator (`user_id`) with the prompts and completions that they wrote.

Upstream: Singh et al., 2024 (arXiv:2402.06619), CohereForAI/aya_dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from fedllm_bench.data.manifest import Split

from .common import BuildInfo, Declaration, Recipe, Sample, build_split
from .readers import read_rows

COLUMNS = {
    "inputs": str,
    "targets": str,
    "language": str,
    "language_code": str,
    "annotation_type": str,
    "user_id": str,
}
# Other spellings of codes that users write or rows carry; upstream has ISO 639-3 with a few macro-languages.
ISO_639_3 = {
    "ar": "arb", "ara": "arb", "en": "eng", "es": "spa", "fr": "fra", "pt": "por",
    "ru": "rus", "te": "tel", "uk": "ukr", "zh": "zho", "cmn": "zho",
}  # fmt: skip

AYA = Declaration(
    dataset="aya",
    upstream="CohereForAI/aya_dataset",
    licence="Apache-2.0",
    version="1",
    recipe=Recipe(
        # The eight languages of Fed-Aya, in the published code.
        languages=("arb", "eng", "fra", "por", "rus", "spa", "tel", "zho"),
        # The construction code was never published. 100 is what is remembered of it, and it agrees with the
        # published client sizes, the smallest of which is 139.
        min_samples=100,
        # Not published either: the original has no held-out rows. A tenth gives each client at least ten.
        heldout=0.1,
        # As many strangers as make a mean over users worth an interval; they come from below the cut.
        unseen_clients=10,
    ),
)
DECLARATION = AYA
# A local file in Aya's columns need not hold Aya's rows.
LOCAL = replace(AYA, licence="Apache-2.0 for rows of CohereForAI/aya_dataset; other raw rows keep their own licence")


def normal_language(code: str) -> str:
    """A code as lower-case ISO 639-3 without script or region; "und" where there is none."""
    language = re.split(r"[-_]", code.strip().lower())[0]
    return ISO_639_3.get(language, language) or "und"


def samples(raw: Path) -> Iterator[Sample]:
    """The raw rows as samples; an optional column `source` says where a row came from."""
    for record in read_rows(raw, COLUMNS, {"source": str}):
        values = record.values
        yield Sample(
            client=values["user_id"],
            prompt=values["inputs"],
            completion=values["targets"],
            language=normal_language(values["language_code"]),
            source=values.get("source") or "aya",
            upstream_split=record.split,
            file=record.file,
        )


def build(
    raw: Path,
    out: Path,
    recipe: Recipe = AYA.recipe,
    name: str | None = None,
    *,
    declaration: Declaration | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> Split:
    """Build the client split in `out` from raw rows in upstream columns (a file or a folder of files).

    Another `declaration` states where the rows come from when that is not Aya (the mini world, for one).
    """
    declared = declaration or LOCAL
    recipe = replace(recipe, languages=tuple(sorted({normal_language(code) for code in recipe.languages})))
    info = BuildInfo(declaration=declared, raw=raw, name=name or f"{declared.dataset}-custom", extra_files=extra_files)
    return build_split(lambda: samples(raw), recipe, out, info)
