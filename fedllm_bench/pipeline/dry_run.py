"""`bench --dry-run`: memory and time of a run in lines, as far as they can be known without fetching anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedllm_bench.common.free_memory import available_memory
from fedllm_bench.common.text import size
from fedllm_bench.config import base_model
from fedllm_bench.config.bases import declared
from fedllm_bench.config.run import RunConfig
from fedllm_bench.runs.cell import ON_REAL_ROWS, Cell, resolve_split
from fedllm_bench.runs.opening import open_cell
from fedllm_bench.training.fitting import ERROR, in_words, model_settings, process_in_words
from fedllm_bench.training.memory import NoEstimate, estimate
from fedllm_bench.training.process_memory import ProcessEstimate, estimate_process

ON_A_GPU = ("paper", "gpu24")  # profiles whose models are not tried on a CPU


def dry_run_lines(config: RunConfig, out: Path, cuda: bool, threads: int | None) -> Iterator[str]:
    """Memory, then seconds by stage from a short probe, or why they are not known here.

    Raises a :class:`UserError` for what a run would be refused for.
    """
    if config.split is not None:
        resolve_split(config)  # a split that is none is refused before a model is looked for
    name, revision = config.model.name, config.model.revision
    is_here = base_model.is_available(name, revision)
    base = declared.base_of(name)
    if not is_here and base is not None and base.gguf is not None:
        yield f"Memory and time: not known before the model is here: fedllm-bench model get {name}"
        return
    process = None
    try:
        settings = model_settings(config)
        yield from _memory(config, settings)
        process = None if cuda else estimate_process(config, settings)
    except NoEstimate as error:
        yield f"Memory: {error}"
    free = available_memory()
    if process is not None:
        known = f"; {size(free)} are free" if free is not None else ""
        yield f"Memory of the whole process on a CPU: about {process_in_words(process)}{known}"
    problem = _no_probe(config, cuda=cuda, is_here=is_here, process=process, free=free)
    if problem:
        yield f"Time: not known, since {problem}"
        return
    cell = open_cell(config, out, cuda, threads)
    if cell.finished() is not None:
        yield f"Time: none; the run in {cell.folder} is finished"
        return
    yield from _time(cell)


def _time(cell: Cell) -> Iterator[str]:
    """Seconds by stage, of the run as it is planned."""
    from fedllm_bench.pipeline.beside import plan_of
    from fedllm_bench.pipeline.forecast import forecast

    plan = plan_of(cell)
    if plan.baseline_threads is not None:
        yield (
            "The baseline `local` trains at the same time, in a process of its own with as much memory; "
            f"threads: {plan.threads} and {plan.baseline_threads}"
        )
    yield from forecast(cell).lines()


def _memory(config: RunConfig, settings: Any) -> Iterator[str]:
    needed = estimate(config, settings)
    yield f"Memory on the device in training: about {in_words(needed)}"
    what = "in an adapter" if config.model.trainable == "adapter" else "that are trained, all weights"
    what = "that are trained, at the ends" if config.offsite.is_on else what
    yield f"Numbers {what}: {needed.trainable:,}"


def _no_probe(
    config: RunConfig, *, cuda: bool, is_here: bool, process: ProcessEstimate | None, free: int | None
) -> str:
    """Why nothing is tried; "" where the model can be."""
    if config.profile in ON_A_GPU and not cuda:
        return f"profile {config.profile} is for a GPU, and none was found here"
    if not is_here:
        return f"the model {config.model.name} is not on this machine yet; a run fetches it"
    if config.split is None and config.profile in ON_REAL_ROWS:
        from fedllm_bench.runs.profile_split import is_built

        if not is_built(config):
            ways = "give SPLIT=DIR (--split DIR), or start the run"
            return f"the users of profile {config.profile} are not built yet; {ways}"
    if process is not None and free is not None and process.total * (1 - ERROR) > free:
        return "there is not enough free memory to try it"
    return ""
