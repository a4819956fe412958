"""What callers of :mod:`fedllm_bench.api` may give, and its checks."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.api_options import (
    AnyPath,
    AnyRun,
    AnySplit,
    DiversityOptions,
    RunOptions,
    StatementOptions,
    check_options,
)
from fedllm_bench.api_results import Run, read_run
from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config.preflight import choose_profile
from fedllm_bench.data.client_split import Split

if TYPE_CHECKING:
    from fedllm_bench.diversity.settings import DiversitySettings as DiversitySettings
    from fedllm_bench.evaluation.judges.preset import Preset
    from fedllm_bench.leaderboard.submit.assemble import Statement


def run_options(options: RunOptions) -> dict[str, Any]:
    """Of the options of a run: what :func:`fedllm_bench.config.presets.load` takes, as texts.

    Raises a TypeError for an option that does not exist, as Python does.
    """
    check_options(options, RunOptions)
    split, model, metrics = options.get("split"), options.get("model"), options.get("metrics")
    return {
        "engine": options.get("engine") or "inprocess",
        "variant": options.get("variant") or "paper",
        "split": None if split is None else str(split.folder if isinstance(split, Split) else os.fspath(split)),
        "model": None if model is None else os.fspath(model),
        "metrics": None if metrics is None else commas(metrics),
    }


def place(options: RunOptions) -> Path:
    """The folder of all runs."""
    return Path(options.get("out") or "runs")


def commas(names: Iterable[object] | str) -> str:
    """Names as one text with commas between; a text as it is."""
    return names if isinstance(names, str) else ",".join(map(str, names))


def folder(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def run_folder(run: AnyRun) -> Path:
    return run.folder if isinstance(run, Run) else Path(run).expanduser()


def run_folders(runs: AnyRun | Iterable[AnyRun]) -> list[Path]:
    """Of one run or several. Raises a :class:`UserError` for none at all, and for a folder that is no run."""
    several = [runs] if isinstance(runs, (Run, str, os.PathLike)) else list(runs)
    if not several:
        raise UserError("runs: there is none; give one or more, as bench or open_run give them")
    return [run_folder(run) for run in several]


def finished(run: AnyRun) -> Path:
    """The folder of a finished run, or of answers alone. Raises a :class:`UserError` for another one."""
    path = run_folder(run)
    is_answers = (path / "answers").is_dir() and not (path / "config.json").exists()
    return path if is_answers else read_run(path).folder


def count(name: str, value: int | None) -> int | None:
    """Raise a :class:`UserError` for what is neither None nor a whole number, 1 or more."""
    if value is None:
        return None
    if (found := whole(name, value)) < 1:
        raise UserError(f"{name}: got {value!r}; give a whole number, 1 or more")
    return found


def whole(name: str, value: object) -> int:
    """Raise a :class:`UserError` for what is no whole number, 0 or more; those of numpy are."""
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = -1
    if found < 0 or isinstance(value, bool):
        raise UserError(f"{name}: got {value!r}; give a whole number, 0 or more")
    return found


def profile(options: RunOptions) -> str:
    """That of the options, else by GPU. Raises a :class:`UserError` for another one than "mini" and "paper"."""
    return choose_profile(options.get("profile"), hardware.has_cuda())[0]


def paid(max_cost: float | None) -> float | None:
    """Raise a :class:`UserError` for a limit that is no number of US dollars, 0 or more."""
    if max_cost is not None and not (isinstance(max_cost, (int, float)) and max_cost >= 0):
        raise UserError(f"max_cost: got {max_cost!r}; give a number of US dollars, 0 or more")
    return max_cost


def judge(name: str | None, url: str | None, model: str | None) -> Preset | None:
    """The judge that is named; None where none is. Raises a :class:`UserError` for what is no judge."""
    from fedllm_bench.evaluation.judges.preset import load_judge

    return load_judge(name, model=model, base_url=url) if name or url or model else None


def split_of(split: AnySplit) -> Split:
    """An opened split as it is, else that of a data set's name or a folder."""
    from fedllm_bench.runs.splits import split_from

    return split if isinstance(split, Split) else split_from(os.fspath(split))


def diversity_settings(sections: Sequence[str] | str | None, options: DiversityOptions) -> DiversitySettings:
    """Raises a :class:`UserError` for another section, number or device than there are."""
    from fedllm_bench.diversity.settings import DiversitySettings as DiversitySettings
    from fedllm_bench.diversity.settings import chosen_sections
    from fedllm_bench.report.diversity.measuring import DEVICES, device_of

    check_options(options, DiversityOptions)
    if (device := options.get("device", "auto")) not in DEVICES:
        raise unknown("device", str(device), DEVICES)
    return DiversitySettings(
        sections=chosen_sections(None if sections is None else commas(sections), None),
        embedder=options.get("embedder"),
        tokenizer=options.get("tokenizer", "mini"),
        quality_model=options.get("quality_model"),
        max_rows=count("max_rows", options.get("max_rows")),
        permutations=count("permutations", options.get("permutations")) or DiversitySettings.permutations,
        seed=whole("seed", options.get("seed", 0)),
        device=device_of(device),
    )


def statement(team: str, contact: str, tuning: str, options: StatementOptions) -> tuple[Statement, bool]:
    """What a submitter says, and whether runs of code that no commit names are taken."""
    from fedllm_bench.leaderboard.submit.assemble import ADAPTERS, Statement

    check_options(options, StatementOptions)
    texts: dict[str, Any] = {"team": team, "contact": contact, "tuning": tuning, "date": "", **options}
    is_dirty = bool(texts.pop("allow_dirty", False))
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{name}: got {text!r}; give a text")
    if texts.get("adapters", "auto") not in ADAPTERS:
        raise unknown("choice of adapters", str(texts["adapters"]), ADAPTERS)
    return Statement(**texts), is_dirty
