"""From a config to its cell, after everything was checked that a run needs; nothing is trained here."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import at_home
from fedllm_bench.common.free_memory import available_memory
from fedllm_bench.config.preflight import check_device_map, check_quantization, model_available, paper_problems
from fedllm_bench.config.run import RunConfig
from fedllm_bench.config.size_bound import fits_for_sure
from fedllm_bench.runs import cell as cells
from fedllm_bench.runs.cell import Cell
from fedllm_bench.training.cluster.connection import check_reachable


def open_cell(config: RunConfig, out: Path, cuda: bool, threads: int | None = None) -> Cell:
    """Check what the run needs before anything is loaded. `threads` is None for all cores, shared with the baseline.

    Raises a :class:`UserError` for what is missing here: a split, a model, a package or a GPU.
    """
    if config.profile == "paper":
        _check_paper(config, cuda)
    check_quantization(config.model)
    check_device_map(config.model, cuda)
    if config.engine == "ray":
        check_reachable()
    cell = Cell(config, cells.resolve_split(config), out, threads or hardware.num_threads(), threads is None)
    if not model_available(config.model.name, config.model.revision):  # it will be fetched: after all else is looked at
        from fedllm_bench.runs.loading import (
            check_cell,  # takes seconds, so else not before it is known what is left to do
        )

        check_cell(cell)
    return cell


def _check_paper(config: RunConfig, cuda: bool) -> None:
    problems = paper_problems(
        config,
        cuda=cuda,
        model_found=model_available(config.model.name, config.model.revision),
        split_found=config.split is not None and (at_home(config.split) / "manifest.json").is_file(),
        bfloat16=cuda and hardware.has_bfloat16(),
    )
    if problems:
        raise UserError("PROFILE=paper cannot start:\n" + "\n".join(f"  {problem}" for problem in problems))


def check_memory(config: RunConfig) -> None:
    """Raise a :class:`UserError` where the run will not fit into the free memory: the GPU's, or without one the CPU's.

    Under `model.device_map` it is that of all GPUs together; whether each has room for its part is not checked.

    Nothing is asked where the machine does not say what is free, nor where a run as small as this one fits for sure.
    """
    cuda = hardware.has_cuda()
    free = None if cuda else available_memory()
    if not cuda and (free is None or fits_for_sure(config, free)):
        return
    import torch

    from fedllm_bench.training.fitting import check_fits, check_process_fits, model_settings

    if free is None:
        gpus = range(torch.cuda.device_count()) if config.model.device_map else [torch.cuda.current_device()]
        check_fits(config, model_settings(config), sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus))
    else:
        check_process_fits(config, model_settings(config), free)
