"""One trial: a setting with a budget under each seed, and what its runs say."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.report.grid.files import Reasons
from fedllm_bench.runs.grid import GridCell
from fedllm_bench.tuning.space import Setting

DEFAULT = 0  # the number of the trial that is the preset as it is


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Trial `number` with `budget` (rounds, or clients of a round). `reason` says why a run of it has no results."""

    number: int
    setting: Setting
    budget: int
    cells: tuple[GridCell, ...]
    reason: str = ""

    @cached_property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Metric -> `mean` over seeds, `seeds` with the mean of each, `unit`, `higher_is_better`; {} where it failed.

        A metric with a seed that was not scored has no mean.
        """
        results = [each.cell.finished() for each in self.cells]
        if self.reason or not all(results):
            return {}
        names = self.cells[0].cell.config.evaluation.metrics
        for each, found in zip(self.cells, results, strict=True):
            check_results(found or {}, names, each.folder)
        entries = [(each.seed, found["metrics"]) for each, found in zip(self.cells, results, strict=True) if found]
        return {name: _entry(name, entries) for name in names}

    def value(self, metric: str) -> float | None:
        """What is compared; None where a run failed or was not scored."""
        found: float | None = self.metrics[metric]["mean"] if self.metrics else None
        return found

    @property
    def seconds(self) -> float:
        """Seconds of training, over all seeds."""
        found = [each.cell.finished() for each in self.cells]
        return sum(float(one["cost"]["seconds"].get("train", 0.0)) for one in found if one)


def check_results(results: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Raise a :class:`UserError` where results.json lacks a number that every run has: somebody changed it."""
    for name in names:
        try:
            entry = results["metrics"][name]
            mean, _ = entry["after"]["mean"], (entry["unit"], entry["higher_is_better"])
            is_whole = mean is None or _is_number(mean)
            is_whole = is_whole and _is_number(results["cost"]["seconds"].get("train", 0.0))
        except (KeyError, TypeError, AttributeError):
            is_whole = False
        if not is_whole:
            raise UserError(
                f"{folder}: results.json has no number for {name}, so that it was changed; delete this folder, "
                "and give the same command to run it again"
            )


def _is_number(value: object) -> bool:
    """Whether it is one that JSON can hold again; an int of hundreds of digits is none."""
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _entry(name: str, entries: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    seeds = {str(seed): metrics[name]["after"]["mean"] for seed, metrics in entries}
    known = [value for value in seeds.values() if value is not None]
    mean = statistics.fmean(known) if len(known) == len(seeds) else None
    first = entries[0][1][name]
    return {"mean": mean, "seeds": seeds, **{key: first[key] for key in ("unit", "higher_is_better")}}


def reason_of(cells: Sequence[GridCell], reasons: Reasons) -> str:
    """Why one of the cells has no results, with its seed; "" where all have."""
    found = [f"seed {each.seed}: {reasons[each.key]}" for each in cells if each.key in reasons]
    return found[0] if found else ""


def label_of(number: int, budget: int, *, whole: bool) -> str:
    """How the runs of a trial are called on the terminal and in logs/."""
    name = "default" if number == DEFAULT else f"trial-{number}"
    return name if whole else f"{name}-{budget}"
