"""Sections of a config on what clients send: privacy and communication. All of it is off by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Strict:
    """No unknown keys, no conversion between types (but int to float), neither NaN nor infinity."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Privacy(Strict):
    """Differential privacy of clients (docs/privacy.md); off unless `clip` is given.

    Either `noise_multiplier` is given, or `epsilon`, from which it is found.
    """

    clip: Positive | None = None  # largest norm of one client's upload, over all its tensors
    noise_multiplier: NotNegative | None = None  # standard deviation of the noise on the sum, over `clip`
    epsilon: Positive | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-4


# Rules of `lora_aggregation` that add to the weights of the base.
CHANGES_BASE = ("stack", "exact", "restart")


@dataclass(frozen=True, kw_only=True)
class Communication(Strict):
    """What clients send (docs/communication.md).

    `fair_lambda` is LoRA-FAIR's lam, of `lora_aggregation=fair` alone (docs/aggregation.md).
    `budget_mb`: MB of 1024 * 1024 bytes that all rounds may send, up and down; a run ends before it would pass it.
    """

    upload_dtype: Literal["float32", "float16"] = "float32"
    lora_aggregation: Literal[
        "mean", "frozen_a", "share_a", "alternate", "flex", "stack", "exact", "fair", "restart"
    ] = "mean"
    fair_lambda: NotNegative = 0.01
    aggregation_error: bool = False  # measured each round; holds all uploads of a round in memory
    budget_mb: Positive | None = None
