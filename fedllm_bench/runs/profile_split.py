"""The users of a profile that has no data in the package: built from the upstream's rows, once, into the cache.

It is what `fedllm-bench data build` does, with the recipe that the profile states (`[builds.<data set>]` of its file).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.common import files
from fedllm_bench.common.cache import cached
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import MANIFEST, Split, open_split

if TYPE_CHECKING:  # a run with a split of its own must not wait for these
    from fedllm_bench.data.build.pipelines import Pipeline

log = logging.getLogger(__name__)


def built_split(config: RunConfig) -> Split:
    """The split of a run without one, under a profile with builds; it is fetched where the cache does not have it.

    Raises a :class:`UserError` with the ways on where the rows cannot be had.
    """
    build = _stated(config)
    if build is None:
        raise UserError(f"PROFILE={config.profile} builds no users of {config.dataset}; {_ways(config)}")
    from fedllm_bench.data.build.pipelines import load_pipeline

    pipeline, name = load_pipeline(config.dataset, variant=config.variant), f"{config.dataset}-{config.profile}"
    try:
        return cached(
            files.cache_root() / "splits",
            _folder_name(config, build, pipeline),
            make=lambda folder: _build(pipeline, build, name, folder),
            read=lambda folder: open_split(folder) if (folder / MANIFEST).is_file() else None,
        )
    except UserError as error:
        upstream = pipeline.DECLARATION.upstream
        raise UserError(
            f"PROFILE={config.profile} without SPLIT builds users of {config.dataset} from {upstream}, which failed "
            f"({str(error).partition(';')[0]}); {_ways(config, upstream)}"
        ) from error


def is_built(config: RunConfig) -> bool:
    """Whether the split of such a run lies in the cache, so that nothing is fetched for it."""
    build = _stated(config)
    if build is None:
        return False
    from fedllm_bench.data.build.pipelines import load_pipeline

    pipeline = load_pipeline(config.dataset, variant=config.variant)
    folder = files.cache_root() / "splits" / _folder_name(config, build, pipeline)
    return (folder / MANIFEST).is_file()


def _stated(config: RunConfig) -> dict[str, Any] | None:
    """How the profile builds the users; a training set of another suite is built by its own recipe."""
    from fedllm_bench.data.build.pipelines import TRAINING_SETS

    own: dict[str, Any] | None = {} if config.dataset in TRAINING_SETS else None
    return presets.builds_of(config.profile).get(config.dataset, own)


def _folder_name(config: RunConfig, build: dict[str, Any], pipeline: Pipeline) -> str:
    key = files.sha256_json({"build": build, "recipe": pipeline.DECLARATION.recipe.normal().record(),
                             "version": pipeline.DECLARATION.version})[:10]  # fmt: skip
    return f"{config.dataset}-{config.profile}-{key}"


def _build(pipeline: Pipeline, build: dict[str, Any], name: str, folder: Path) -> None:
    from fedllm_bench.data import lengths
    from fedllm_bench.data.build import decontaminate, hub

    given = {key: value for key, value in build.items() if key != "revision"}
    recipe = replace(pipeline.DECLARATION.recipe, **given)
    source = hub.declared_source(pipeline.DECLARATION)
    # asked even of a commit that is stated: before any row, and with a time limit
    raw = replace(source, revision=hub.asked_commit(source.name, build.get("revision") or source.revision or None))
    evaluation = decontaminate.evaluation_prompts("on")
    log.info("Building users from %s, once; its rows are read twice.", raw)
    pipeline.build(raw, folder, recipe, name, evaluation=evaluation, counter=lengths.token_counter("mini"))


def _ways(config: RunConfig, upstream: str = "") -> str:
    """What a user can type instead, in one line."""
    hub = "reach the hub (HF_HUB_OFFLINE unset; of gated data accept the licence there, then hf auth login)"
    files = f"build a split of files{f' of {upstream}' if upstream else ''}: fedllm-bench data build {config.dataset} "
    own = "or of rows of your own: fedllm-bench data build rows --raw my.jsonl --out DIR (see --help)"
    ways = [*([hub] if upstream else []), f"{files}--raw FILE_OR_FOLDER --out DIR", own]
    return f"{'; '.join(ways)}; a split is given by SPLIT=DIR (--split DIR)"
