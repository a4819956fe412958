"""Offsite tuning: which decoder layers clients train, on which emulator, and how the server aligns it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import Field

from fedllm_bench.config.config_uploads import Communication, NotNegative, Positive, Strict
from fedllm_bench.config.sections import Count, Fraction, Lora, Model

CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
# Rules that look at the names of tensors alone; the others work on pairs of A and B of one model.
RULES = ("mean", "frozen_a")
MOST_ROWS = 10_000_000  # of all steps of an alignment, which are chosen before its first
OF_FEDBIOT = ("round_steps", "kl_weight", "mu")
OF_ALIGNMENT = ("public", "lr", "optimizer", "rows", "lm_weight", "kd_weight")


@dataclass(frozen=True, kw_only=True)
class Offsite(Strict):
    """Offsite tuning (docs/offsite.md); off unless a `variant` is given.

    `left`, `right`: so many decoder layers at the ends are trained and plugged into the full model. `drop`: the share
    of the layers between them that clients do not get; what is left is the emulator.

    The server aligns it on `public` rows (the folder of a split; "" is another world of the embedded kind), in `steps`
    steps of `rows` rows before round 1, and under fedbiot in `round_steps` steps before each later one. `lm_weight`,
    `kd_weight`, `kl_weight` are those of the loss of tokens, of hidden states and of logits; `mu` is that of the
    clients' proximal term.
    """

    variant: Literal["none", "fedot", "fedbiot"] = "none"
    left: CountOrZero = 0
    right: CountOrZero = 0
    drop: Fraction = 0.0
    public: str = ""
    steps: CountOrZero = 500
    round_steps: Count = 10
    rows: Count = 4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 1e-4
    lm_weight: NotNegative = 0.0
    kd_weight: NotNegative = 1.0
    kl_weight: NotNegative = 1.0
    mu: NotNegative = 0.01

    @property
    def is_on(self) -> bool:
        return self.variant != "none"

    @property
    def realigns(self) -> bool:
        """Whether the emulator changes in every round."""
        return self.variant == "fedbiot"


def check_offsite(
    offsite: Offsite, model: Model, lora: Lora, communication: Communication, other: dict[str, bool]
) -> None:
    """Raise a :class:`ValueError` of one line for settings that contradict each other or would change nothing.

    `other`: settings of the rest of the config that offsite tuning cannot have, and whether they are given.
    """
    given = [field.name for field in fields(offsite) if getattr(offsite, field.name) != field.default]
    if not offsite.is_on:
        if given:
            raise ValueError(
                f"offsite.{given[0]}={getattr(offsite, given[0])}: offsite.variant is none, so it changes nothing; "
                "give offsite.variant=fedot or fedbiot, or leave it out"
            )
        return
    _check_own(offsite, given)
    rule = communication.lora_aggregation
    refused = other | {
        f"model.quantization={model.quantization}": model.quantization != "none",
        f"model.device_map={model.device_map}": bool(model.device_map),
        "lora.dora=true": lora.dora,
        f"lora.ranks={lora.ranks}": lora.ranks is not None,
        f"communication.lora_aggregation={rule}": rule not in RULES,
    }
    found = [setting for setting, is_given in refused.items() if is_given]
    if found:
        raise ValueError(
            f"offsite.variant={offsite.variant}: offsite tuning does not go with {found[0]}; leave one of them out"
        )


def _check_own(offsite: Offsite, given: list[str]) -> None:
    """Refuse settings of the section that do not go together."""
    if not offsite.left + offsite.right:
        raise ValueError(
            f"offsite.variant={offsite.variant}: offsite.left and offsite.right are 0, so clients train nothing; give "
            "offsite.right=2"
        )
    if offsite.realigns and offsite.left:
        raise ValueError(
            f"offsite.left={offsite.left}: the adapter of fedbiot is the last layers alone; give offsite.left=0, or "
            "offsite.variant=fedot"
        )
    if offsite.realigns and not offsite.steps:
        raise ValueError("offsite.steps=0: fedbiot aligns its emulator; give more, or offsite.variant=fedot")
    for name in () if offsite.realigns else OF_FEDBIOT:
        if name in given:
            raise ValueError(
                f"offsite.{name}: it is of offsite.variant=fedbiot, and the variant is fedot; leave it out"
            )
    _check_alignment(offsite, given)


def _check_alignment(offsite: Offsite, given: list[str]) -> None:
    """Refuse settings of the alignment that it does not read, that leave it no loss, or that take too many rows."""
    for name in () if offsite.steps else OF_ALIGNMENT:
        if name in given:
            raise ValueError(f"offsite.{name}: offsite.steps is 0, so nothing is aligned; leave one of them out")
    for name in ("steps", "round_steps") if offsite.realigns else ("steps",):
        if (steps := getattr(offsite, name)) * offsite.rows > MOST_ROWS:
            raise ValueError(
                f"offsite.{name}={steps}, offsite.rows={offsite.rows}: an alignment takes {MOST_ROWS:,} rows in all at "
                "most; give fewer"
            )
    weights = offsite.lm_weight + offsite.kd_weight + (offsite.kl_weight if offsite.realigns else 0.0)
    if offsite.steps and not weights:
        raise ValueError("offsite.kd_weight=0: all weights of the alignment's loss are 0; give one, or offsite.steps=0")
