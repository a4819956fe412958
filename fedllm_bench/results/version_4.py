"""results.json of version 4, which lacked three keys of its summaries, read as one of version 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OF_SIDE = {"no_interval": "", "sd": None}
OF_DIFFERENCE = {**OF_SIDE, "detectable": None}
LATER: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("before", "after", "local"), OF_SIDE),
    **dict.fromkeys(("difference", "difference_to_local"), OF_DIFFERENCE),
}


def with_later_keys(payload: Any) -> Any:
    """A payload of version 4 with the later keys, whose values say that nothing is known; another one as it is.

    ValueError for one of version 4 that has a later key. What is no object is left as it is.
    """
    if not isinstance(payload, dict) or payload.get("schema_version") != 4:
        return payload
    changed = dict(payload)
    if isinstance(metrics := payload.get("metrics"), dict):
        changed["metrics"] = {name: _entry(entry, f"metrics.{name}") for name, entry in metrics.items()}
    if isinstance(personal := payload.get("personalisation"), dict) and "heldout" in personal:
        changed["personalisation"] = {**personal, "heldout": _entry(personal["heldout"], "personalisation.heldout")}
    return changed


def _entry(entry: Any, where: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    sides = {side: later for side, later in LATER.items() if isinstance(entry.get(side), dict)}
    return {**entry, **{side: _summary(entry[side], later, f"{where}.{side}") for side, later in sides.items()}}


def _summary(summary: Mapping[str, Any], later: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in sorted(later.keys() & summary.keys()):
        raise ValueError(f"results: the key {where}.{key} is unknown; version 4 does not have it")
    return {**summary, **later}
