"""The training sets of OpenFedLLM (Ye et al., 2024, arXiv:2402.06954), read as its module process_dataset does.

20,000 rows of each are dealt IID, as its scripts have it: to 20 clients, pairs to 5. It holds out nothing; here a tenth
of each client's rows is. :data:`RELEASED` has its own order of rows with nothing held out (`--variant released`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedllm_bench.data.build.recipe import Declaration, Recipe

from .tables import Fields, TablePipeline, table

ROWS = 20_000  # `dataset_sample`
JOINED = Fields(instruction="instruction", input="input", response="output", join="space")  # an empty input is none
QUESTION = Fields(instruction="instruction", response="output")


def dealt(dataset: str, upstream: str, licence: str, clients: int = 20, **about: Any) -> Declaration:
    """A declaration of IID rows; `about` is what else there is to declare."""
    recipe = Recipe(partition=f"iid:{clients}", max_rows=ROWS, heldout=0.1)
    return Declaration(dataset=dataset, upstream=upstream, licence=licence, version="1", recipe=recipe, **about)


def as_released(declared: Declaration) -> Declaration:
    """The same rows in the released order: shuffled with 2023, cut to 20,000, every n-th row to a client."""
    clients = declared.recipe.partition.partition(":")[2]
    return replace(
        declared,
        recipe=Recipe(partition=f"released:{clients}:{ROWS}", heldout=0.0, near_duplicates="off", deduplicate=False),
    )


STATED: dict[str, tuple[Declaration, Fields, dict[str, Any]]] = {
    "alpaca": (dealt("alpaca", "tatsu-lab/alpaca", "CC-BY-NC-4.0"), JOINED, {}),
    "alpaca_gpt4": (
        dealt("alpaca_gpt4", "vicgalle/alpaca-gpt4", "CC-BY-NC-4.0", commit="e13c3065b3fd644091cf1d9eb6d1a7375f8c7cf0"),
        JOINED,
        {},
    ),
    # its card shows no licence
    "fingpt": (dealt("fingpt", "FinGPT/fingpt-sentiment-train", "not stated", commit="a2701f2"), JOINED, {}),
    # the instruction is the same in every row, and is dropped there
    "medalpaca": (
        dealt("medalpaca", "medalpaca/medical_meadow_medical_flashcards", "CC"),
        Fields(instruction="input", response="output"),
        {},
    ),
    # the id of its arguments, lucasmccabe-lmi/CodeAlpaca-20k, is reported gone; these are the same rows
    "code_alpaca": (dealt("code_alpaca", "sahil2801/CodeAlpaca-20k", "CC-BY-4.0", commit="152bb5e"), JOINED, {}),
    "math_instruct": (
        dealt("math_instruct", "TIGER-Lab/MathInstruct", "MIT", commit="b4fdc32"),
        QUESTION,
        {"once": "instruction"},
    ),
    "ultrafeedback": (
        dealt("ultrafeedback", "HuggingFaceH4/ultrafeedback_binarized", "MIT", 5, splits=("train_sft",)),
        Fields(instruction="prompt", chosen="chosen", rejected="rejected"),
        {},
    ),
}


def _made(name: str, *, released: bool = False) -> TablePipeline:
    declared, parts, more = STATED[name]
    return table(as_released(declared) if released else declared, parts, language="eng", **more)


SETS: Mapping[str, TablePipeline] = {name: _made(name) for name in STATED}
RELEASED: Mapping[str, TablePipeline] = {name: _made(name, released=True) for name in STATED}
