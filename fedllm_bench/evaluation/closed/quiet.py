"""lm-eval without its own words: it prints, logs and draws bars, and sets the random numbers of the whole process."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partialmethod

import numpy as np
from tqdm import tqdm

SEED = 1234  # lm-eval's own, of examples and of numpy
CHATTY = ("lm_eval", "datasets", "evaluate", "fsspec")


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing is printed, logged or drawn by lm-eval and what loads its data, but errors."""
    import datasets

    levels = {name: logging.getLogger(name).level for name in CHATTY}
    drawn = not datasets.utils.logging.is_progress_bar_enabled()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if not drawn:
            datasets.enable_progress_bars()


@contextmanager
def without_bars() -> Iterator[None]:
    """lm-eval's own bars are not drawn; those of this suite are."""
    import lm_eval.api.task as module

    class Hidden(tqdm):  # type: ignore[type-arg]
        __init__ = partialmethod(tqdm.__init__, disable=True)

    before, module.tqdm = module.tqdm, Hidden
    try:
        yield
    finally:
        module.tqdm = before


@contextmanager
def fixed_seeds() -> Iterator[None]:
    """The random numbers that lm-eval's tasks find, as its command sets them; afterwards all is as it was."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # tasks use it
    random.seed(0)
    np.random.seed(SEED)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
