"""Sections of a config on clients that attack and rules that withstand them (docs/robust.md). Off by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedllm_bench.config.config_uploads import Positive, Strict

Rule = Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "norm_bound"]
AttackKind = Literal["none", "noise", "sign_flip", "scaled", "trigger", "harmful"]
OF_ATTACK = ("attack_success", "attack_misfire")  # metrics that ask with the words of the section `attack`
Number = Annotated[int, Field(ge=0, lt=2**31)]
Short = Annotated[str, Field(max_length=200)]  # a trigger that fills the sequence length leaves no token to train on

Long = Annotated[str, Field(max_length=10_000)]  # numbers of clients, one by one


@dataclass(frozen=True, kw_only=True)
class Aggregation(Strict):
    """How the server makes one upload of all. Each constant belongs to the rules that are named with it."""

    rule: Rule = "mean"
    trim: Annotated[float, Field(ge=0, lt=0.5)] | None = None  # trimmed_mean: share that is cut at each end
    byzantine: Number | None = None  # krum, multi_krum, bulyan: f, how many answers of a round may be an attacker's
    selected: Annotated[int, Field(ge=1, lt=2**31)] | None = None  # multi_krum: m; without it n - f - 2
    bound: Positive | None = None  # norm_bound: largest norm of one client's upload, over all its tensors


@dataclass(frozen=True, kw_only=True)
class Attack(Strict):
    """Clients that attack, and how.

    `clients`: their numbers ("0,3"; the first client of the split is 0) or a share ("0.2") that the seed deals.
    `scale`: an upload attack's strength; the uploads of poisoned rows are multiplied by it. `rows`: the share of an
    attacker's training rows that are poisoned. A `trigger` with an `answer` and without a `kind` attacks nobody: the
    metrics of the attack ask with them, as a control.
    """

    kind: AttackKind = "none"
    clients: Long = ""
    scale: Positive = 1.0
    trigger: Short = ""
    answer: Short = ""
    rows: Annotated[float, Field(gt=0, le=1)] = 1.0
