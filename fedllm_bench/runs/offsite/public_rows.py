"""Public rows, on which the server of offsite tuning aligns its emulator: never a row of the run's own users."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import PARTS, Split, open_split
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import TokenRow, tokenise_split
from fedllm_bench.mini.dataset import BUILDERS, mini_split
from fedllm_bench.mini.tables import ROWS
from fedllm_bench.runs.cell import Cell

log = logging.getLogger(__name__)
OTHER_WORLD = 1_000_000  # added to data.world_seed: worlds that are trained on have small seeds
WAY = (
    "give the folder of a split whose training rows are public (--set offsite.public=DIR; of rows of your own: "
    "fedllm-bench data build rows --raw FILE --out DIR), or --set offsite.steps=0"
)


@dataclass(frozen=True)
class PublicRows:
    """Of the split `name` with this hash; `num_left_out` of its rows are also rows of the run's users, and not here."""

    name: str
    hash: str
    rows: tuple[TokenRow, ...]
    num_left_out: int

    def __len__(self) -> int:
        return len(self.rows)


def check_public(config: RunConfig) -> None:
    """Raise a :class:`UserError` where an alignment is asked for and no public rows are, or no split of a right kind.

    Nothing is built.
    """
    offsite = config.offsite
    if not offsite.is_on or not offsite.steps:
        return
    if offsite.public:
        split = _given(offsite.public)
        if split.task != "sft":
            raise UserError(f"offsite.public={offsite.public}: its task is {split.task}, and it must be sft; {WAY}")
    elif config.profile != "mini":
        raise UserError(f"offsite.public: profile {config.profile} has no public rows for the alignment; {WAY}")
    elif config.dataset not in (*BUILDERS, *ROWS):
        raise UserError(f"offsite.public: there is no mini variant of {config.dataset} to draw public rows from; {WAY}")


def check_not_own(cell: Cell) -> None:
    """Raise a :class:`UserError` where all rows of `offsite.public` are those of the run's own users.

    Nothing is built and no model is loaded; whether a row is too long is known afterwards alone.
    """
    offsite = cell.config.offsite
    if not offsite.is_on or not offsite.steps or not offsite.public:
        return
    public = [_text(row) for row in _given(offsite.public).rows("train")]
    if not set(public).difference(_texts(cell.split)):
        raise _nothing_left(offsite.public, len(public), 0)


def public_rows(cell: Cell, tokenizer: Any, template: str) -> PublicRows | None:
    """Those of a cell, cut at its sequence length; None where nothing is aligned.

    Raises a :class:`UserError` where none is left.
    """
    config = cell.config
    if not config.offsite.is_on or not config.offsite.steps:
        return None
    cache = files.cache_root()
    split = _split(config, cache)
    part = tokenise_split(split, tokenizer, template, config.local.sequence_length, cache, told=False)["train"]
    known = set(_texts(cell.split))
    texts = [_text(row) for row in split.rows("train")]
    places = [place for place, number in enumerate(part.rows) if texts[int(number)] not in known]
    num_left_out = len(part) - len(places)
    if not places:
        raise _nothing_left(config.offsite.public or split.name, num_left_out, part.num_skipped)
    if num_left_out:
        log.info("%s of %s are also rows of the run's users, and are no public rows here",
                 counted(num_left_out, "row"), split.name)  # fmt: skip
    return PublicRows(split.name, split.hash, tuple(part[place] for place in places), num_left_out)


def _nothing_left(name: str, num_left_out: int, num_too_long: int) -> UserError:
    return UserError(
        f"offsite.public={name}: no row of it can be used ({num_left_out} are rows of the run's own users, "
        f"{num_too_long} too long); {WAY}"
    )


def _split(config: RunConfig, cache: Path) -> Split:
    if config.offsite.public:
        return _given(config.offsite.public)
    return mini_split(config.dataset, (config.data.world_seed + OTHER_WORLD) % 2**31, cache)


def _given(public: str) -> Split:
    """Raises a :class:`UserError` that names the setting where there is no whole split."""
    try:
        return open_split(files.at_home(public))
    except UserError as error:
        raise UserError(f"offsite.public={public}: {error}") from error


def _texts(split: Split) -> Iterator[tuple[tuple[str, str], ...]]:
    for part in PARTS:
        yield from (_text(row) for row in split.rows(part))


def _text(row: SftRow) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in row.messages)
