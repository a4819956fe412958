"""A tiny run of preference training."""

from __future__ import annotations

from tiny import settings


def dpo(kind: str, **changes):
    beta = {"sigmoid": 0.3, "ipo": 0.5}[kind]
    return settings(**{"loss": "dpo", "dpo_loss": kind, "dpo_beta": beta, **changes})
