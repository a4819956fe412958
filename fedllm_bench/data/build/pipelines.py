"""Which pipelines there are, by data set; their modules stand in data_prep/."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config import plugins

if TYPE_CHECKING:  # the registry is read by --help, which must not load pyarrow
    from fedllm_bench.data.build.build import Builder
    from fedllm_bench.data.build.recipe import Declaration


class Pipeline(Protocol):
    """What a pipeline module offers."""

    @property
    def DECLARATION(self) -> Declaration: ...

    @property
    def build(self) -> Builder: ...


class Maker(Protocol):
    """What a module of :data:`STATED` offers."""

    def pipeline(self, said: Mapping[str, str]) -> Pipeline: ...


@dataclass(frozen=True, kw_only=True)
class OwnPipeline:
    """A pipeline of a plugin; the version in its declaration names the plugin's file."""

    DECLARATION: Declaration
    build: Builder


class Group(Protocol):
    """What a module of several pipelines offers: each as the suite builds it, and as its authors released it."""

    @property
    def SETS(self) -> Mapping[str, Pipeline]: ...

    @property
    def RELEASED(self) -> Mapping[str, Pipeline]: ...


PREP = "fedllm_bench.data_prep"
OF_USERS = ("aya", "chatbot_it", "chatbot_pa", "wildchat", "wildchat_multi")  # the benchmark's own: a module each
# The training sets of other suites, whose rows are a table: dataset -> the module that declares it with others.
TRAINING_SETS: dict[str, str] = {
    name: f"{PREP}.{module}"
    for module, names in {
        "openfedllm": "alpaca alpaca_gpt4 fingpt medalpaca code_alpaca math_instruct ultrafeedback",
        "hh_rlhf": "hh_rlhf",
        "fs_llm": "fed_alpaca fed_code_alpaca fed_dolly fed_gsm8k",
        "flowertune": "flowertune_general flowertune_finance flowertune_medical flowertune_code",
    }.items()
    for name in names.split()
}
# Dataset -> module; a module is imported only when its dataset is asked for. That of a plugin is loaded already.
PIPELINES: dict[str, str | Pipeline] = {**{name: f"{PREP}.{name}" for name in OF_USERS}, **TRAINING_SETS}

# The same for rows of one's own: the module makes a pipeline of what the user says of the rows.
STATED: dict[str, str] = {"rows": f"{PREP}.rows"}


def load_pipeline(name: str, said: Mapping[str, str] | None = None, variant: str = "paper") -> Pipeline:
    """The pipeline of a dataset; a :class:`UserError` that names those there are.

    `said`: option -> value, what the user says of rows of their own; other pipelines know their columns. `variant`
    "released": the split as the data set's authors released it, where that is another one.
    """
    if name in STATED:
        return cast(Maker, importlib.import_module(STATED[name])).pipeline(said or {})
    if name not in PIPELINES:
        raise unknown("pipeline for the dataset", name, [*PIPELINES, *STATED], plugins.ADVICE)
    if said:
        given, only = ", ".join(map(option, said)), ", ".join(STATED)
        raise UserError(f"{given}: for the dataset {only} alone; {name} states its columns and its licence itself")
    found = PIPELINES[name]
    if name in TRAINING_SETS and isinstance(found, str):
        group = cast(Group, importlib.import_module(found))
        return group.RELEASED.get(name, group.SETS[name]) if variant == "released" else group.SETS[name]
    return cast(Pipeline, importlib.import_module(found)) if isinstance(found, str) else found


def check_release(name: str) -> None:
    """Raise a :class:`UserError` where variant "released" builds no other split."""
    groups = {one: cast(Group, importlib.import_module(module)) for one, module in TRAINING_SETS.items()}
    known = [one for one, group in groups.items() if one in group.RELEASED]
    if name not in known:
        raise UserError(f"--variant released: {name} has no such split; there are those of {', '.join(known)}")


def option(key: str) -> str:
    """How `key` is written on the command line."""
    return f"--{key.replace('_', '-')}"
