"""What a diversity report is computed with."""

from __future__ import annotations

from dataclasses import dataclass

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config.run import EMBEDDED_MODEL

SECTIONS = ("quantity", "length", "language", "instruction", "embedding", "quality", "preference")
NO_MODEL = "none"


@dataclass(frozen=True, kw_only=True)
class DiversitySettings:
    """`embedder` and `quality_model` are None for a default that fits the split; the latter may be NO_MODEL.

    `max_rows` bounds the rows of measures that need a model (embedding, instruction, IFD); others are over all rows.
    """

    embedder: str | None = None
    tokenizer: str = EMBEDDED_MODEL
    quality_model: str | None = None
    sections: tuple[str, ...] = SECTIONS
    max_rows: int | None = None
    permutations: int = 499
    seed: int = 0
    device: str = "cpu"


def chosen_sections(only: str | None, skip: str | None) -> tuple[str, ...]:
    """The sections that two texts of names with commas leave, in the order of SECTIONS.

    Raises a :class:`UserError` for an unknown name, and where none is left.
    """
    wanted, left_out = _names(only), _names(skip)
    found = tuple(name for name in SECTIONS if (not wanted or name in wanted) and name not in left_out)
    if not found:
        raise UserError(f"--only {only} --skip {skip} leaves no section; there are {', '.join(SECTIONS)}")
    return found


def _names(text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS)
    return names
