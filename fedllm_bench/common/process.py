"""What this process must say to libraries before they are loaded: variables of the environment, loggers, warnings.

Variables that other programs left behind must not break an import nor change a number. A user's own value of a variable
that concerns speed is kept.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fedllm_bench.common.errors import UserError

# glibc gives blocks above 32 MB back to the kernel and faults them in again at each step, which costs a
# third of a training step on a CPU. It reads these only when a process starts.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
}

# How long a thread of torch spins for the others before it sleeps, in rounds of a loop of libgomp, which reads it when
# torch is loaded. Its default of 300,000 trains a hundred times slower where other programs take the cores, since who
# spins holds the core that the other thread waits for; without them the two are equally fast (benchmarks/LOG.md).
SPINNING = {"GOMP_SPINCOUNT": "300"}
WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # a user who gives one of them has chosen

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # else each try to reach it is two lines
    "TRANSFORMERS_VERBOSITY": "error",
}
# A level that is not among these makes the library print a line of its own.
LEVELS = ("debug", "info", "warning", "error", "critical")
VERBOSITIES = {
    "TRANSFORMERS_VERBOSITY": ("detail", *LEVELS),
    "HF_HUB_VERBOSITY": LEVELS,
    "DATASETS_VERBOSITY": LEVELS,
}

# Messages that say nothing about a run: that no compiled code for 4-bit products came from the hub, which is not wanted
# (training/quantized), and what a user's matplotlibrc has wrong, which is not read (report/style).
LOUD = ("bitsandbytes.backends.cpu.ops", "matplotlib")
# Variables that libraries turn into numbers while they are imported.
NUMBERS: dict[str, Callable[[str], float]] = {
    "HF_HUB_DOWNLOAD_TIMEOUT": int,
    "HF_HUB_ETAG_TIMEOUT": int,
    "HF_DATASETS_IN_MEMORY_MAX_SIZE": float,
    **dict.fromkeys(("TQDM_NCOLS", "TQDM_NROWS", "TQDM_MINITERS", "TQDM_POSITION"), int),
    **dict.fromkeys(("TQDM_MININTERVAL", "TQDM_MAXINTERVAL", "TQDM_SMOOTHING", "TQDM_DELAY"), float),
}
# A launcher's variables, under which accelerate (--engine trl) would wait for other processes, or change a number.
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHERS = ("ACCELERATE_", "FSDP_", "OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_", "MPI_LOCAL")
FIGURES = {"MPLBACKEND", "MATPLOTLIBRC"}  # what matplotlib reads when it is loaded
USUALLY_IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def prepare() -> None:
    """Set variables and loggers. To be called before torch, transformers, PEFT and matplotlib are loaded.

    Raises a :class:`UserError` for a variable with which a library could not be imported.

    Compiled code of the hub is never fetched and run: the package `kernels`, through which bitsandbytes (already when
    it is imported) and transformers would do so, counts as not installed.
    """
    for name, number in NUMBERS.items():
        _check_number(name, os.environ.get(name), number)
    _check_text(Path("matplotlibrc"))
    for name in [name for name in os.environ if name in LAUNCHED or name.startswith(LAUNCHERS)]:
        del os.environ[name]
    if not WAITING & os.environ.keys():
        os.environ.update(SPINNING)
    for name, levels in VERBOSITIES.items():
        if os.environ.get(name) not in levels:
            os.environ.pop(name, None)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.update(figure_variables())
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    # PEFT 0.21 asks transformers 5.24 by the old name
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    # that a variable has no effect any more, which other programs still set
    warnings.filterwarnings("ignore", category=FutureWarning, module="huggingface_hub.constants")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Libraries that were loaded before our variables were set show no bars of their own inside the block."""
    restored = []
    hub, transformers = (sys.modules.get(name) for name in ("huggingface_hub.utils", "transformers.utils.logging"))
    if hub is not None and not hub.are_progress_bars_disabled():
        hub.disable_progress_bars()
        restored.append(hub.enable_progress_bars)
    if transformers is not None and transformers.is_progress_bar_enabled():
        transformers.disable_progress_bar()
        restored.append(transformers.enable_progress_bar)
    try:
        yield
    finally:
        for restore in restored:
            restore()


@contextmanager
def prepared() -> Iterator[None]:
    """:func:`prepare` for the time of a call in somebody else's program, which then has its variables back.

    Its own matplotlib stays as it is, and so do the threads of a torch that it had loaded before.
    """
    before, had_kernels = dict(os.environ), "kernels" in sys.modules
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    try:
        with warnings.catch_warnings(), _without_bars():
            prepare()
            os.environ.update({name: before[name] for name in FIGURES if name in before})
            for name in FIGURES - before.keys():
                os.environ.pop(name, None)
            yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        if not had_kernels:
            sys.modules.pop("kernels", None)
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)


def _check_text(path: Path) -> None:
    """matplotlib reads this file of the current folder before the one that is named to it."""
    try:
        path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise UserError(f"{path.resolve()} is not UTF-8, and matplotlib would read it; rename that file") from error


def _check_number(name: str, value: str | None, number: Callable[[str], float]) -> None:
    """`value` may be empty; huggingface_hub takes that for none."""
    try:
        number(value or "0")
    except ValueError as error:
        raise UserError(f"the environment variable {name}={value!r} is not a number; unset it, or give one") from error


def figure_variables() -> dict[str, str]:
    """Variables under which matplotlib can be imported, whatever was there before. Figures are drawn into files.

    A notebook's MPLBACKEND is inherited by what it starts, where the package that it names is often missing; and a
    matplotlibrc in another encoding than UTF-8 ends the import too. So matplotlib gets its own one.
    """
    spec = find_spec("matplotlib")
    folders = spec.submodule_search_locations if spec else None
    own = Path((folders or [""])[0], "mpl-data", "matplotlibrc")
    return {"MPLBACKEND": "agg"} | ({"MATPLOTLIBRC": str(own)} if own.is_file() else {})


def variables_of_a_restart(training: bool) -> dict[str, str] | None:
    """The variables with which this process must be started anew, which it reads at its start; None if it need not.

    A process that trains gets our settings of the allocator, unless the user has some. Without docstrings (python -OO)
    transformers cannot load a model.
    """
    mine = training and sys.platform == "linux" and not ALLOCATOR.keys() & os.environ.keys()
    if not mine and sys.flags.optimize < 2:
        return None
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
    return {**kept, **ALLOCATOR} if mine else kept


@contextmanager
def loading() -> Iterator[None]:
    """Inside nothing is searched for garbage: libraries and models are a million objects that stay.

    Python would look at all of them many times while they come, a fifth of the time until a run trains. Afterwards
    they count as old, so they are looked at rarely.
    """
    if not gc.isenabled():  # an outer block, or somebody else's wish
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # into the oldest generation, without a look at each
        gc.enable()


def warnings_as_usual() -> None:
    """Warnings are no errors, whatever PYTHONWARNINGS says: libraries raise some while they are imported."""
    if any(option.startswith("error") for option in sys.warnoptions):
        warnings.resetwarnings()
        for category in USUALLY_IGNORED:
            warnings.simplefilter("ignore", category)
