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


# Dataset -> module; a module is imported only when its dataset is asked for. That of a plugin is loaded already.
PIPELINES: dict[str, str | Pipeline] = {
    name: f"fedllm_bench.data_prep.{name}" for name in ("aya", "chatbot_it", "chatbot_pa", "wildchat", "wildchat_multi")
}

# The same for rows of one's own: the module makes a pipeline of what the user says of the rows.
STATED: dict[str, str] = {"rows": "fedllm_bench.data_prep.rows"}


def load_pipeline(name: str, said: Mapping[str, str] | None = None) -> Pipeline:
    """The pipeline of a dataset; a :class:`UserError` that names those there are.

    `said`: option -> value, what the user says of rows of their own; other pipelines know their columns.
    """
    if name in STATED:
        return cast(Maker, importlib.import_module(STATED[name])).pipeline(said or {})
    if name not in PIPELINES:
        raise unknown("pipeline for the dataset", name, [*PIPELINES, *STATED], plugins.ADVICE)
    if said:
        given, only = ", ".join(map(option, said)), ", ".join(STATED)
        raise UserError(f"{given}: for the dataset {only} alone; {name} states its columns and its licence itself")
    found = PIPELINES[name]
    return cast(Pipeline, importlib.import_module(found)) if isinstance(found, str) else found


def option(key: str) -> str:
    """How `key` is written on the command line."""
    return f"--{key.replace('_', '-')}"
