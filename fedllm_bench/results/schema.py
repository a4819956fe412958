"""The structure of results.json as data, and the check against it. docs/results.md explains every key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 5
READABLE = (4, SCHEMA_VERSION)
QUANTILES = {"min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True)
class MapOf:
    """An object whose keys are free (names of metrics, of stages) and whose values all have one structure."""

    values: Any


@dataclass(frozen=True)
class ListOf:
    values: Any


@dataclass(frozen=True)
class OneOf:
    """One of these values, compared with ==."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class OrNull:
    structure: Any


@dataclass(frozen=True)
class Since5:
    """A key that files of version 4 lack."""

    structure: Any


SUMMARY = {
    "mean": OrNull(float),
    "ci_low": OrNull(float),
    "ci_high": OrNull(float),
    "n": int,
    "n_scored": int,
    "n_unscored": int,
    "interval": OneOf(("t_skew", "share", "exact", "none", "bootstrap", "t")),
    "unit_of_resampling": str,
    "no_interval": Since5(str),
    "sd": Since5(OrNull(float)),
}
DIFFERENCE = {**SUMMARY, "significant": OrNull(bool), "detectable": Since5(OrNull(float))}
SPREAD = {**dict.fromkeys(QUANTILES, OrNull(float)), "n": int}
DISTRIBUTION = {
    "after": SPREAD,
    "difference": SPREAD,
    "num_better": int,
    "num_worse": int,
    "share_better": OrNull(float),
}
MOMENTS = {"mean": OrNull(float), "sd": OrNull(float), "worst_tenth": OrNull(float), "n": int}
PER_CLIENT = {
    "before": MOMENTS,
    "after": MOMENTS,
    "local": OrNull(MOMENTS),
    "difference": MOMENTS,
    "difference_to_local": OrNull(MOMENTS),
}
METRIC = {
    "version": str,
    "unit": str,
    "higher_is_better": bool,
    "description": str,
    "estimator": str,
    "before": SUMMARY,
    "after": SUMMARY,
    "difference": DIFFERENCE,
    "local": OrNull(SUMMARY),
    "difference_to_local": OrNull(DIFFERENCE),
    "distribution": DISTRIBUTION,
    "per_client": PER_CLIENT,
}
CLIENT = {
    "client": str,
    "before": OrNull(float),
    "after": OrNull(float),
    "local": OrNull(float),
    "n_rows": int,
}
ROUND = {"round": int, "heldout": {**SPREAD, **MOMENTS}, "unseen": {**SPREAD, **MOMENTS}}
OVER_ROUNDS = {"metric": str, "every": int, "unit": str, "rounds": ListOf(ROUND)}
GAIN = {
    "client": str,
    "num_train_rows": int,
    "before": OrNull(float),
    "after": OrNull(float),
}
PERSONALISATION = {
    "metric": str,
    "steps": int,
    "optimizer": str,
    "lr": float,
    "heldout": METRIC,
    "clients": ListOf(GAIN),
}
CUT = {
    "num_rows": int,
    "num_cut": int,
    "num_skipped": int,
    "num_counted_tokens": int,
    "num_lost_tokens": int,
}
FAILURE = {"round": int, "client": str, "reason": str}
PRIVACY = {
    "unit": OneOf(("client",)),
    "epsilon": OrNull(float),
    "delta": float,
    "clip": float,
    "noise_multiplier": float,
    "sampling_rate": float,
    "rounds": int,
    "accountant": str,
    "clipped": OrNull(float),
    "statement": str,
}
COMMUNICATION = {
    "upload_dtype": str,
    "lora_aggregation": str,
    "aggregation_error": OrNull(float),
    "aggregation_error_norm": OrNull(float),
}
RESULTS = {
    "schema_version": OneOf(READABLE),
    "run": {
        "dataset": str,
        "method": str,
        "personal": bool,
        "profile": str,
        "track": str,
        "seed": int,
        "model": str,
        "config_hash": str,
        "commit": OrNull(str),
    },
    "data": {
        "num_clients": int,
        "num_unseen_clients": int,
        "num_train_rows": int,
        "num_heldout_rows": int,
        "local_clients": ListOf(str),
        "never_visited": ListOf(str),
        "sequence_length": int,
        "cut": {"train": CUT, "heldout": CUT, "unseen": CUT},
    },
    "cost": {
        "bytes_up": int,
        "bytes_down": int,
        "num_answers": int,
        "num_dropouts": int,
        "failures": ListOf(FAILURE),
        "seconds": MapOf(float),
        "peak_memory_bytes": int,
        "peak_gpu_bytes": OrNull(int),
    },
    "intervals": {"level": float, "samples": int, "seed": int, "bootstrap_from": OrNull(int)},
    "metrics": MapOf(METRIC),
    "clients": MapOf(ListOf(CLIENT)),
    "over_rounds": OrNull(OVER_ROUNDS),
    "personalisation": OrNull(PERSONALISATION),
    "privacy": OrNull(PRIVACY),
    "communication": OrNull(COMMUNICATION),
}


def check_results(payload: Mapping[str, Any]) -> None:
    """ValueError naming a key that is missing, unknown or of a wrong kind, as "metrics.heldout.after.n"."""
    _check(payload, _of_version(payload.get("schema_version"), RESULTS), "")


def _of_version(version: Any, structure: Any) -> Any:
    """The structure of a file of that version."""
    match structure:
        case dict():
            there = {k: v for k, v in structure.items() if version != 4 or not isinstance(v, Since5)}
            return {key: _of_version(version, value) for key, value in there.items()}
        case MapOf(inner) | ListOf(inner) | OrNull(inner):
            return type(structure)(_of_version(version, inner))
        case Since5(inner):
            return inner
        case _:
            return structure


def _check(value: Any, structure: Any, where: str) -> None:
    match structure:
        case dict():
            _check_object(value, structure, where)
        case MapOf(values):
            for key, entry in _object(value, where).items():
                _check(entry, values, f"{where}.{key}")
        case ListOf(values):
            _check_kind(value, list, where)
            for i, entry in enumerate(value):
                _check(entry, values, f"{where}[{i}]")
        case OneOf(values):
            if isinstance(value, bool) or value not in values:
                raise ValueError(f"results: {where} is {value!r}; it must be one of {list(values)}")
        case OrNull(inner):
            if value is not None:
                _check(value, inner, where)
        case _:
            _check_kind(value, structure, where)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    _check_kind(value, dict, where)
    checked: Mapping[str, Any] = value
    return checked


def _check_object(value: Any, structure: dict[str, Any], where: str) -> None:
    prefix = f"{where}." if where else ""
    for key in sorted(structure.keys() - _object(value, where or "the payload").keys()):
        raise ValueError(f"results: the key {prefix}{key} is missing")
    for key in sorted(value.keys() - structure.keys()):
        raise ValueError(f"results: the key {prefix}{key} is unknown; known here: {sorted(structure)}")
    for key, inner in structure.items():
        _check(value[key], inner, f"{prefix}{key}")


def _check_kind(value: Any, kind: type, where: str) -> None:
    allowed = (int, float) if kind is float else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"results: {where} is {value!r}; it must be of type {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"results: {where} is {value}; numbers must be finite (null where not computed)")
