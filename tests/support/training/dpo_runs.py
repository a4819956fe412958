"""A tiny run of preference training."""

from __future__ import annotations

from tiny import settings


def dpo(kind: str, **changes):
    beta = {"sigmoid": 0.3, "ipo": 0.5, "simpo": 2.0, "orpo": 0.7}[kind]
    return settings(**{"loss": "dpo", "dpo_loss": kind, "dpo_beta": beta, **changes})


def kto(**changes):
    weights = {"kto_desirable": 1.2, "kto_undesirable": 0.7}
    return settings(**{"loss": "kto", "dpo_beta": 0.3, "micro_batch": 4, **weights, **changes})
