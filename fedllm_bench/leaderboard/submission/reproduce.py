"""The settings of a submitted run beside those of its preset, and the command that runs them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_bench.config import presets
from fedllm_bench.config.run import option_types
from fedllm_bench.leaderboard.submission.tracks import Track, flat, preset_of

ARGUMENTS = ("seed", "engine", "variant")  # options of their own
NOT_SET = ("split", "name", "dataset", "profile", "track", "method.name")


def changed(config: Mapping[str, Any], track: Track) -> dict[str, tuple[Any, Any]]:
    """Key -> (what the preset has, what the run had), but the seed and where the split lay."""
    preset = flat(preset_of(track.preset, _text(config.get("method.name")), track.profile))
    keys = sorted((config.keys() | preset.keys()) - {"seed", "split", "method.name"})
    return {key: (preset.get(key), config.get(key)) for key in keys if preset.get(key) != config.get(key)}


def commands(config: Mapping[str, Any], seeds: Sequence[int], track: Track) -> list[str]:
    """One `fedllm-bench bench` a seed; [] for a method that the suite does not have."""
    method = _text(config.get("method.name"))
    if method not in presets.method_names():
        return []
    differs = changed(config, track)
    options = [
        *(f"--{key} {shlex.quote(_word(differs[key][1]))}" for key in ARGUMENTS if key in differs),
        *(f"--set {shlex.quote(_setting(key, own))}" for key, (_, own) in differs.items() if _can_set(key)),
    ]
    start = f"fedllm-bench bench {track.preset} {method} --profile {track.profile}"
    return [" ".join([start, f"--seed {seed}", *options]) for seed in seeds]


def _can_set(key: str) -> bool:
    if key in (*ARGUMENTS, *NOT_SET):
        return False
    return key in option_types() or key.startswith("method.constants.")


def _setting(key: str, value: Any) -> str:
    return f"{key.replace('method.constants.', 'method.')}={_word(value)}"


def _word(value: Any) -> str:
    """As --set reads it."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
