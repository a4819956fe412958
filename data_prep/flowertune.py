"""The training sets of FlowerTune LLM's four challenges (arXiv:2506.02961), as its app template has them.

All rows are dealt IID to 20, 50, 20 and 10 clients. Its partitioner deals them in one stretch for each client; here, as
everywhere, a row finds its client by its hash.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedllm_bench.data.build.recipe import Declaration, Recipe

from .tables import Fields, TablePipeline, table

JOINED = Fields(instruction="instruction", input="input", response="output", join="space")
ASKED = Fields(instruction="instruction", response="output")  # the general template leaves the input of a row out
FLASHCARD = Fields(instruction="input", response="output")


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


GPT4 = "e13c3065b3fd644091cf1d9eb6d1a7375f8c7cf0"
MADE = (
    _challenge("general", "vicgalle/alpaca-gpt4", "CC-BY-NC-4.0", 20, ASKED, GPT4),
    _challenge("finance", "FinGPT/fingpt-sentiment-train", "not stated", 50, JOINED, "a2701f2"),
    _challenge("medical", "medalpaca/medical_meadow_medical_flashcards", "CC", 20, FLASHCARD),
    _challenge("code", "flwrlabs/code-alpaca-20k", "not stated", 10, JOINED),
)
SETS: Mapping[str, TablePipeline] = {made.DECLARATION.dataset: made for made in MADE}
RELEASED: Mapping[str, TablePipeline] = {}
