"""grid.json as flat rows, for CSV and pandas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FlatRow = dict[str, Any]


def grid_rows(payload: Mapping[str, Any]) -> Iterator[FlatRow]:
    """One row for each metric and method, the base model among them.

    `minus_<reference>` has the interval over clients (`_low`, `_high`), that over seeds (`_seeds_low`, `_seeds_high`)
    and the verdict; `family` is there where the methods are those of a table; bytes and seconds are means of a run.
    """
    families = payload["grid"].get("families")
    for metric, entry in payload["metrics"].items():
        about = {"metric": metric, **{key: entry[key] for key in ("unit", "higher_is_better")}}
        for method, row in entry["methods"].items():
            named = {} if families is None else {"family": families.get(method, "")}
            found = {**about, **named, "method": method, **{key: row[key] for key in ("mean", "sd", "n")}}
            for name in payload["references"]:
                found |= _difference(f"minus_{name}", (row["differences"] or {}).get(name) or {})
            yield found | payload["cost"].get(method, {})


def _difference(name: str, found: Mapping[str, Any]) -> FlatRow:
    keys = {"": "mean", "_low": "ci_low", "_high": "ci_high", "_verdict": "verdict"}
    seeds = found.get("seeds") or {}
    return {
        **{f"{name}{ending}": found.get(key) for ending, key in keys.items()},
        f"{name}_seeds_low": seeds.get("ci_low"),
        f"{name}_seeds_high": seeds.get("ci_high"),
    }
