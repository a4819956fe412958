"""What a model maker's chat template refuses or cannot hold, in one line each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.data.templates.answer_form import PLAIN

log = logging.getLogger(__name__)


@contextmanager
def refusals() -> Iterator[None]:
    """A template is a program of the model's maker: whatever it raises is one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the chat template refuses a conversation ({first_line(error)[:200]}); {PLAIN}") from error


@cache
def say_system() -> None:
    log.info("the base's own chat template has no place for a system turn: it stands before the first user turn")


@cache
def say_not_kept() -> None:
    log.info(
        "the base's own chat template writes earlier answers otherwise than the one it asks for: of such a "
        "conversation only the last answer counts (docs/templates.md)"
    )
