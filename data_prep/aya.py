"""Aya: each client is one annotator (`user_id`) with the prompts and completions that they wrote.

Upstream: Singh et al., 2024 (arXiv:2402.06619), CohereForAI/aya_dataset.
"""

from __future__ import annotations

from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.columns import USER_ID, Columns, Kind
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.languages import normal_language

COLUMNS: dict[str, Kind] = {
    "inputs": str,
    "targets": str,
    "language": str,
    "language_code": str,
    "annotation_type": str,
    "user_id": USER_ID,
}
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


def sample_of(record: RawRecord) -> Sample:
    """A raw row as a sample; an optional column `source` says where it came from."""
    values = record.values
    return Sample(
        client=values["user_id"],
        turns=(("user", values["inputs"]),),
        answers=(values["targets"],),
        language=normal_language(values["language_code"]),
        source=values.get("source") or "aya",
        upstream_split=record.split,
        file=record.file,
    )


build = Builder(DECLARATION, Columns(COLUMNS, {"source": str}), sample_of)
