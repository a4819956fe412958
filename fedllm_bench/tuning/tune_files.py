"""What a search leaves in its folder: numbers, tables, the chosen preset, the sentence for a submission, a figure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.tuning.table import TABLE_WIDTH, trials_csv, tune_text

TUNE, TRIALS, CSV, TABLE = "tune.json", "trials.jsonl", "trials.csv", "table.txt"
PRESET, SENTENCE = "preset.toml", "tuning.txt"


def write_so_far(payload: Mapping[str, Any], folder: Path) -> None:
    """The trials that have ended; the search goes on."""
    _write_new(folder / TRIALS, "".join(f"{files.canonical_json(each)}\n" for each in payload["trials"]))
    _write_new(folder / CSV, trials_csv(payload))


def _write_new(path: Path, text: str) -> None:
    """Nothing is written where the file says so already."""
    if not path.is_file() or path.read_bytes() != text.encode():
        files.write_text(path, text)


def write_all(payload: Mapping[str, Any], folder: Path) -> None:
    """Everything, where anything has changed; tune.json comes last, so that with it all is there."""
    path = folder / TUNE
    if files.read_made(path) == json.loads(json.dumps(payload)):
        return
    write_so_far(payload, folder)
    files.write_text(folder / TABLE, tune_text(payload, TABLE_WIDTH))
    if payload["chosen"] is None:
        for name in (PRESET, SENTENCE):
            (folder / name).unlink(missing_ok=True)
    else:
        files.write_text(folder / PRESET, preset_toml(payload, folder))
        files.write_text(folder / SENTENCE, payload["tuning"] + "\n")
    _draw(payload, folder)
    files.write_json(path, dict(payload))


def _draw(payload: Mapping[str, Any], folder: Path) -> None:
    from fedllm_bench.tuning.figure import draw_trials  # loads matplotlib

    draw_trials(payload, folder / "figures")


def preset_toml(payload: Mapping[str, Any], folder: Path) -> str:
    """The chosen setting as `bench --preset` takes it, with what it was chosen on above it."""
    tune = payload["tune"]
    tables: dict[str, list[str]] = {}
    for key, value in payload["chosen"]["setting"].items():
        section, _, name = key.partition(".")
        tables.setdefault(section, []).append(f"{name} = {_toml(value)}")
    head = [
        f"# {tune['method']} on {tune['dataset']}: chosen by fedllm-bench tune; {SENTENCE} says how.",
        f"# fedllm-bench bench {tune['asked']} {tune['method']} --preset {folder / PRESET}",
    ]
    return "\n".join([*head, *(line for name, lines in tables.items() for line in ("", f"[{name}]", *lines))]) + "\n"


def _toml(value: object) -> str:
    """A value of TOML; its texts are those of JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, str)) else repr(value)
