"""Errors of this program's own code: they end a command, and never count against the submission at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedllm_bench import __version__
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.provenance import package_version

USED = ("numpy", "scipy", "pydantic", "regex", "sacrebleu", "torch", "transformers")  # by the checks


class InternalError(UserError):
    """A fault of fedllm-bench or of an installed package. One line; the command exits with code 2."""


@contextmanager
def own_errors(doing: str) -> Iterator[None]:
    """Inside, whatever nobody expected becomes an :class:`InternalError` that says what was `doing`.

    What is wrong with a record is raised as a :class:`UserError` and passes, as do errors of the system (a full disk, a
    missing permission), which the command itself reports.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # a fault can be of any kind, and must not be taken for one of the submission
        raise InternalError(message(doing, error)) from error


def message(doing: str, error: Exception) -> str:
    """What was done, what went wrong, with which versions, and what to do, in one line."""
    found = [f"{name} {version}" for name in USED if (version := package_version(name))]
    return (
        f"internal error in {doing} ({type(error).__name__}: {first_line(error)[:160]}); this is a fault of "
        f"fedllm-bench or of an installed package, not a verdict on the submission. Versions: fedllm-bench "
        f"{__version__}, {', '.join(found)}; install those of constraints.txt, or report this line with the traceback "
        "that `fedllm-bench --verbose` shows"
    )
