"""The lines of a grid's legend about runs that did not train for all rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Payload = Mapping[str, Any]


def ended(payload: Payload) -> list[str]:
    """Of methods whose runs the budget of bytes ended, what each row of the table was trained for."""
    rounds: dict[str, dict[str, None]] = {}
    for cell in payload["cells"]:
        if "rounds" in cell:
            done, planned = cell["rounds"]
            rounds.setdefault(cell["method"], {})[f"{done} of {planned}"] = None
    named = ", ".join(f"{method} after {' or '.join(ends)}" for method, ends in rounds.items())
    return [f"rounds trained: communication.budget_mb ended {named}; the others have all"] if named else []


def best_rounds(payload: Payload) -> list[str]:
    """Of methods whose runs looked for their best round, which it is in each seed."""
    found: dict[str, list[str]] = {}
    for cell in payload["cells"]:
        if "stopped" in cell:
            best, run, asked = cell["stopped"]
            found.setdefault(cell["method"], []).append(f"{best} ({run} of {asked} run)")
    named = "; ".join(f"{method} {', '.join(rounds)}" for method, rounds in found.items())
    return [f"best round of each seed, which its row is of (federation.patience): {named}"] if named else []
