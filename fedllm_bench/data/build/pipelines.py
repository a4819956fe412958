"""Which pipelines there are, by data set; their modules stand in data_prep/."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from fedllm_bench.common.errors import unknown
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


@dataclass(frozen=True, kw_only=True)
class OwnPipeline:
    """A pipeline of a plugin; the version in its declaration names the plugin's file."""

    DECLARATION: Declaration
    build: Builder


# Dataset -> module; a module is imported only when its dataset is asked for. That of a plugin is loaded already.
PIPELINES: dict[str, str | Pipeline] = {
    name: f"fedllm_bench.data_prep.{name}" for name in ("aya", "chatbot_it", "chatbot_pa", "wildchat", "wildchat_multi")
}


def load_pipeline(name: str) -> Pipeline:
    """The pipeline of a dataset; a :class:`UserError` that names those there are."""
    if name not in PIPELINES:
        raise unknown("pipeline for the dataset", name, PIPELINES, plugins.ADVICE)
    found = PIPELINES[name]
    return cast(Pipeline, importlib.import_module(found)) if isinstance(found, str) else found
