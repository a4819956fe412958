"""The training sets of FederatedScope-LLM (Kuang et al., 2023, arXiv:2309.00363), `llm/dataloader` of its branch llm.

An input is a turn of its own, which the template alpaca_input writes below `### Input:`. Other splits of the same rows:

    data build fed_dolly --partition dirichlet:0.5:category:3         (its dolly_lda)
    data build fed_code_alpaca --partition dirichlet:0.5:input:3      (3 clients; its merging of languages is broken)
    data build rows --raw CODESEARCHNET --columns "instruction=func_documentation_string,response=func_code_string"
        --partition column:language --max-rows 100000 --name csn --licence "of each repository"   (its csn, 6 clients)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedllm_bench.data.build.recipe import Declaration, Flag, Recipe
from fedllm_bench.data.build.sample import Sample

from .tables import Fields, TablePipeline, table

PARTS = Fields(instruction="instruction", input="input", response="output")
ASSEMBLY = "X86-64 Assembly"
DROPPED = Flag("assembly", f"of {ASSEMBLY}, which the split by languages leaves out")


def _declared(dataset: str, upstream: str, licence: str, partition: str, **about: Any) -> Declaration:
    recipe = Recipe(partition=partition, heldout=0.1)
    return Declaration(dataset=dataset, upstream=upstream, licence=licence, version="1", recipe=recipe, **about)


def without_assembly(sample: Sample) -> Sample:
    """The column `input` holds the language of the program."""
    is_assembly = any(content.strip() == ASSEMBLY for _, content in sample.turns[1:])
    return sample._replace(flags=sample.flags | {DROPPED.name}) if is_assembly else sample


def worded(sample: Sample) -> Sample:
    """The mark before the result, as in "#### 72", in words: "The answer is 72"."""
    return sample._replace(answers=tuple(answer.replace("####", "The answer is") for answer in sample.answers))


SETS: Mapping[str, TablePipeline] = {
    "fed_alpaca": table(
        _declared("fed_alpaca", "tatsu-lab/alpaca", "CC-BY-NC-4.0", "iid:3"),
        PARTS,
        language="eng",
    ),
    # a file of a repository: https://raw.githubusercontent.com/sahil280114/codealpaca/
    # d269da106a579a623a654529b3cb91b5dfa9c72f/data/rosetta_alpaca.json
    "fed_code_alpaca": table(
        _declared(
            "fed_code_alpaca",
            "github.com/sahil280114/codealpaca",
            "not stated",
            "column:input",
            checks=(DROPPED,),
        ),
        PARTS,
        language="eng",
        edit=without_assembly,
    ),
    "fed_dolly": table(
        _declared("fed_dolly", "databricks/databricks-dolly-15k", "CC-BY-SA-3.0", "column:category"),
        replace(PARTS, input="context", response="response"),
        language="eng",
    ),
    "fed_gsm8k": table(
        _declared("fed_gsm8k", "openai/gsm8k", "MIT", "iid:3", subset="main", splits=("train",)),
        Fields(instruction="question", response="answer"),
        language="eng",
        edit=worded,
    ),
}
RELEASED: Mapping[str, TablePipeline] = {}
