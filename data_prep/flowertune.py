"""The training sets of FlowerTune LLM's four challenges (Gao et al., 2025, arXiv:2506.02961), as its app template has them.

All rows are dealt IID to 20, 50, 20 and 10 clients. Its partitioner deals them in one stretch for each client; here, as
everywhere, a row finds its client by its hash.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedllm_bench.data.build.recipe import Declaration, Recipe

from .tables import Fields, TablePipeline, table

JOINED = Fields(instruction="instruction", input="input", response="output", join="space")


def _challenge(name: str, upstream: str, licence: str, clients: int, parts: Fields, commit: str = "") -> TablePipeline:
    declared = Declaration(
        dataset=f"flowertune_{name}",
        upstream=upstream,
        licence=licence,
        version="1",
        recipe=Recipe(partition=f"iid:{clients}", heldout=0.1),
        commit=commit,
    )
    return table(declared, parts, language="eng")


SETS: Mapping[str, TablePipeline] = {
    f"flowertune_{name}": _challenge(name, *about)
    for name, about in {
        # its template reads the instruction alone: the input of a row is left out
        "general": ("vicgalle/alpaca-gpt4", "CC-BY-NC-4.0", 20, Fields(instruction="instruction", response="output"),
                    "e13c3065b3fd644091cf1d9eb6d1a7375f8c7cf0"),
        "finance": ("FinGPT/fingpt-sentiment-train", "not stated", 50, JOINED, "a2701f2"),
        "medical": ("medalpaca/medical_meadow_medical_flashcards", "CC", 20,
                    Fields(instruction="input", response="output")),
        "code": ("flwrlabs/code-alpaca-20k", "not stated", 10, JOINED),
    }.items()
}  # fmt: skip
RELEASED: Mapping[str, TablePipeline] = {}
