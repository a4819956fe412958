"""Sections of a config on what clients send: privacy and communication. All of it is off by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Number = Literal["float32", "float16", "int8", "int4"]


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
    """What clients send and get (docs/communication.md).

    `scales`: those of int8 and int4, one for each tensor or for each vector along its longer side. `error_feedback`:
    what an upload lost is added to the client's next one. `top_k`: the share of an upload's numbers that is sent.
    `fair_lambda` is LoRA-FAIR's lam, of `lora_aggregation=fair` alone (docs/aggregation.md).
    `budget_mb`: MB of 1024 * 1024 bytes that all rounds may send, up and down; a run ends before it would pass it.
    """

    upload_dtype: Number = "float32"
    lora_aggregation: Literal[
        "mean", "frozen_a", "share_a", "alternate", "flex", "stack", "exact", "fair", "restart"
    ] = "mean"
    fair_lambda: NotNegative = 0.01
    aggregation_error: bool = False  # measured each round; holds all uploads of a round in memory
    budget_mb: Positive | None = None
    download_dtype: Number = "float32"
    scales: Literal["tensor", "row"] = "tensor"
    error_feedback: bool = False
    top_k: Annotated[float, Field(gt=0, le=1)] = 1.0
    secure_sum: bool = False  # the server sees sums of uploads alone


def check_communication(communication: Communication) -> None:
    """Raise a :class:`ValueError` of one line for settings that contradict each other or would change nothing."""
    upload, top_k = communication.upload_dtype, communication.top_k
    if communication.scales != "tensor" and not {upload, communication.download_dtype} & {"int8", "int4"}:
        raise ValueError(
            f"communication.scales={communication.scales}: only int8 and int4 have scales; give "
            "communication.upload_dtype=int8, or leave it out"
        )
    if communication.error_feedback and (upload, top_k) == ("float32", 1.0):
        raise ValueError(
            "communication.error_feedback=true: uploads in float32 lose nothing; give communication.upload_dtype=int8 "
            "or communication.top_k=0.1, or leave it out"
        )
    if not communication.secure_sum:
        return
    other = {
        f"communication.upload_dtype={upload}": upload != "float32",
        f"communication.top_k={top_k:g}": top_k != 1.0,
        "communication.aggregation_error=true": communication.aggregation_error,
    }
    given = [name for name, is_given in other.items() if is_given]
    if given:
        why = "sends integers of 32 bits"
        if "error" in given[0]:
            why = "shows the server no upload by itself, which it needs"
        raise ValueError(f"{given[0]}: communication.secure_sum=true {why}; leave one of them out")
