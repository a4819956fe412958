"""Which pipelines there are, by data set; their modules stand in data_prep/."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from fedllm_bench.common.errors import unknown

if TYPE_CHECKING:  # the registry is read by --help, which must not load pyarrow
    from fedllm_bench.data.build.build import Builder
    from fedllm_bench.data.build.recipe import Declaration

# Dataset -> module; a module is imported only when its dataset is asked for.
PIPELINES: dict[str, str] = {
    name: f"fedllm_bench.data_prep.{name}" for name in ("aya", "chatbot_it", "chatbot_pa", "wildchat", "wildchat_multi")
}


class Pipeline(Protocol):
    """What a pipeline module offers."""

    @property
    def DECLARATION(self) -> Declaration: ...

    @property
    def build(self) -> Builder: ...


def load_pipeline(name: str) -> Pipeline:
    """The pipeline of a dataset; a :class:`UserError` that names those there are."""
    if name not in PIPELINES:
        raise unknown("pipeline for the dataset", name, PIPELINES)
    return cast(Pipeline, importlib.import_module(PIPELINES[name]))
