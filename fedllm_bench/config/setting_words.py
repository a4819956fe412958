"""Settings as values of Python, in the words that --set takes, so that both are checked by one rule."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedllm_bench.common.errors import UserError, shown

FORM = 'give a mapping such as {"local.lr": 1e-4, "method.mu": 0.1}'
KINDS = "give a number, a text, True or False, None, or a list of these"


def setting_words(settings: Mapping[str, Any] | None) -> tuple[str, ...]:
    """ "local.lr=0.0001" of {"local.lr": 1e-4}, in the same order; () of None.

    A key may have "METHOD:" before it where several methods are meant. Numbers of numpy are taken too. Raises a
    :class:`UserError` for what is no mapping of texts to values that a setting can have.
    """
    if settings is None:
        return ()
    if not isinstance(settings, Mapping):
        raise UserError(f"settings: got {shown(settings)}; {FORM}")
    return tuple(f"{_key(key)}={_text(value, key)}" for key, value in settings.items())


def _key(key: object) -> str:
    if not isinstance(key, str) or not key.strip() or "=" in key:
        raise UserError(f"settings: the name {shown(key)} is no setting's; {FORM}")
    return key


def _text(value: Any, key: str) -> str:
    """A value of TOML; none for None."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_text(each, key) for each in value)}]"
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, (bool, int, str)):
        return json.dumps(plain, ensure_ascii=False)
    if isinstance(plain, float):
        return repr(plain) if math.isfinite(plain) else str(plain)
    raise UserError(f"settings: {key}: got {shown(value)}; {KINDS}")
