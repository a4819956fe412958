"""What a search leaves in its folder: numbers, tables, the chosen preset, the sentence for a submission, a figure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import escaped
from fedllm_bench.tuning.table import TABLE_WIDTH, trials_csv, tune_text

TUNE, TRIALS, CSV, TABLE = "tune.json", "trials.jsonl", "trials.csv", "table.txt"
PRESET, SENTENCE = "preset.toml", "tuning.txt"
FIGURES = (Path("figures/trials.png"), Path("figures/trials.svg"))


def write_so_far(payload: Mapping[str, Any], folder: Path) -> None:
    """The trials that have ended; the search goes on."""
    trials = "".join(f"{files.canonical_json(each)}\n" for each in payload["trials"])
    _write_new(folder, {TRIALS: trials, CSV: trials_csv(payload)})


def _write_new(folder: Path, texts: Mapping[str, str]) -> None:
    """Nothing is written where the file says so already; what was changed or deleted is made anew."""
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            files.write_text(path, text)


def write_all(payload: Mapping[str, Any], folder: Path) -> None:
    """Everything that has changed, or is not there; tune.json comes last, so that with it all is there."""
    write_so_far(payload, folder)
    texts = {TABLE: tune_text(payload, TABLE_WIDTH)}
    if payload["chosen"] is None:
        for name in (PRESET, SENTENCE):
            (folder / name).unlink(missing_ok=True)
    else:
        texts |= {PRESET: preset_toml(payload, folder), SENTENCE: payload["tuning"] + "\n"}
    _write_new(folder, texts)
    if files.read_made(folder / TUNE) == json.loads(json.dumps(payload)) and _is_drawn(payload, folder):
        return
    _draw(payload, folder)
    files.write_json(folder / TUNE, dict(payload))


def _is_drawn(payload: Mapping[str, Any], folder: Path) -> bool:
    """Whether the figure is there, or there is nothing to draw."""
    has_values = any(each["value"] is not None for each in payload["trials"])
    return not has_values or all((folder / name).is_file() for name in FIGURES)


def _draw(payload: Mapping[str, Any], folder: Path) -> None:
    from fedllm_bench.tuning.figure import draw_trials  # loads matplotlib

    if not draw_trials(payload, folder / FIGURES[0].parent):
        for name in FIGURES:
            (folder / name).unlink(missing_ok=True)


def preset_toml(payload: Mapping[str, Any], folder: Path) -> str:
    """The chosen setting as `bench --preset` takes it, with what it was chosen on above it."""
    tune = payload["tune"]
    tables: dict[str, list[str]] = {}
    for key, value in payload["chosen"]["setting"].items():
        section, _, name = key.partition(".")
        tables.setdefault(section, []).append(f"{name} = {_toml(value)}")
    command = shlex.join(["fedllm-bench", "bench", tune["asked"], tune["method"], "--preset", str(folder / PRESET)])
    head = [
        f"# {tune['method']} on {tune['dataset']}: chosen by fedllm-bench tune; {SENTENCE} says how.",
        f"# {escaped(command)}",
    ]
    return "\n".join([*head, *(line for name, lines in tables.items() for line in ("", f"[{name}]", *lines))]) + "\n"


def _toml(value: object) -> str:
    """A value of TOML; its texts are those of JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, str)) else repr(value)
