"""Where a config's files lie: absolute paths, so that a run finds them again from any folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedllm_bench.config.bases.declared import base_of
from fedllm_bench.config.bases.labels import is_gguf
from fedllm_bench.config.run import EMBEDDED_MODEL, RunConfig


def placed(config: RunConfig) -> RunConfig:
    """`config` with the absolute paths of folders and files; their contents name the run, not the paths.

    The name of a base stays, also where a folder has the same one; that folder is given as ./NAME.
    """
    model = config.model
    is_named = model.name == EMBEDDED_MODEL or base_of(model.name) is not None
    name = model.name if is_named else _absolute(model.name)
    model = replace(model, name=name, adapter=model.adapter and _absolute(model.adapter))
    offsite = replace(config.offsite, public=config.offsite.public and _absolute(config.offsite.public))
    return replace(config, model=model, offsite=offsite, split=config.split and _absolute(config.split))


def _absolute(name: str) -> str:
    """Of a folder or a GGUF file; another name as it is."""
    place = Path(name).expanduser()
    return str(place.absolute()) if place.is_dir() or (is_gguf(name) and place.is_file()) else name
