"""How metrics run a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """`template` is the Jinja source that the run was trained with; `batch_tokens` bounds a batch.

    `dpo_beta` scales rewards of preference pairs.
    """

    template: str
    batch_tokens: int
    max_new_tokens: int
    dpo_beta: float = 0.1
