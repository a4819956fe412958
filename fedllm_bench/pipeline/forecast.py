"""How long each stage of a run will take, before it starts: from a short probe on its rows, and what is done already.

The base and the split are loaded as for the run. A few batches are scored, a few local steps trained and thrown away.
The seconds of a padded token, times the padded tokens of a stage, are its estimate. It is as uncertain as the trials
differ; a machine that other programs use is slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedllm_bench.common.text import duration
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg, trains_alone
from fedllm_bench.metrics.items import of_clients
from fedllm_bench.metrics.registry import items_of, together
from fedllm_bench.pipeline.beside import plan_of
from fedllm_bench.pipeline.probe import (
    NONE,
    Seconds,
    scored_tokens,
    scoring_paces,
    trained_tokens,
    training_pace,
    training_run,
)
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import Bench, load_bench
from fedllm_bench.runs.row_tokens import has_reference, referenced
from fedllm_bench.runs.score_files import has_scores
from fedllm_bench.runs.scoring import base_scores
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.clock.keeping import in_words
from fedllm_bench.training.run import TrainingRun

BEFORE_BOTH, BASELINE = ("load", "reference"), "local baseline"  # names of stages
BUSY = 0.7  # of a core: a process that has less waits for others


@dataclass(frozen=True)
class Stage:
    """`seconds` is None where nothing is left to do; then `note` says why.

    `is_beside`: it is done in a process of its own while others of the stages are.
    """

    name: str
    seconds: Seconds | None
    note: str = ""
    is_beside: bool = False

    @property
    def needed(self) -> Seconds:
        return self.seconds or NONE

    @property
    def words(self) -> str:
        beside = ", at the same time in a process of its own" if self.is_beside else ""
        return f"{_in_words(self.seconds)}{beside}" if self.seconds else self.note


@dataclass(frozen=True)
class Forecast:
    """`cores`: how many cores the probe had, on the mean."""

    stages: Sequence[Stage]
    probe_seconds: float
    cores: float
    left_out: tuple[str, ...] = ()
    clock: tuple[str, ...] = ()  # what is said of the virtual clock

    @property
    def total(self) -> Seconds:
        """Of two processes at a time the longer one counts."""
        first = [stage for stage in self.stages if stage.name in BEFORE_BOTH]
        beside = [stage for stage in self.stages if stage.is_beside]
        own = [stage for stage in self.stages if stage not in (*first, *beside)]
        return _sum(first) + _sum(own).at_least(_sum(beside))

    def lines(self) -> list[str]:
        """One line for each stage, and one for all."""
        name = "Time, as this machine is now, from a probe of"
        shown = [(stage.name, stage.words) for stage in self.stages]
        lines = [f"  {name:16} {words}" for name, words in [*shown, ("in all", _in_words(self.total))]]
        if self.left_out:
            lines.append(f"  not counted: {', '.join(self.left_out)}")
        if self.cores < BUSY:
            lines.append(
                f"  other programs use this machine: the probe had {self.cores:.0%} of a core; with one to itself "
                f"it takes about {duration(self.total.about * self.cores)} in all"
            )
        return [*self.clock, f"{name} {duration(self.probe_seconds)}:", *lines]


def _sum(stages: Iterable[Stage]) -> Seconds:
    return sum((stage.needed for stage in stages), NONE)


def _in_words(seconds: Seconds) -> str:
    about = f"about {duration(seconds.about)}"
    return about if seconds.low == seconds.high else f"{about} ({duration(seconds.low)} to {duration(seconds.high)})"


def forecast(cell: Cell) -> Forecast:
    """Load the cell's base and split, and try both. Nothing is written but what all runs share in the cache.

    Raises what :func:`fedllm_bench.runs.loading.load_bench` raises.
    """
    started = time.perf_counter()
    plan = plan_of(cell)
    bench = load_bench(cell.with_threads(plan.threads), is_trial=True)
    loaded = time.perf_counter() - started
    run = training_run(bench)
    used = time.process_time()
    scoring = {group: scoring_paces(bench, group) for group in together(bench.metrics)}
    base, after = ({group: both[side] for group, both in scoring.items()} for side in (0, 1))
    found = Paces(base, after, training_pace(bench, run))
    spent = time.perf_counter() - started - loaded
    stages = _stages(bench, run, found, loaded)
    if plan.baseline_threads is not None:
        stages = [replace(one, is_beside=one.name == BASELINE and one.seconds is not None) for one in stages]
    clock = tuple(in_words(bench.timeline)) if bench.timeline else ()
    return Forecast(stages, spent, (time.process_time() - used) / spent, _left_out(bench.config), clock)


@dataclass(frozen=True)
class Paces:
    """Seconds for a padded token: of each group of metrics for the base and with an adapter, and of local steps."""

    base: Mapping[tuple[str, ...], Seconds]
    after: Mapping[tuple[str, ...], Seconds]
    step: Seconds

    def scoring(self, items: Sequence[Any], batch_tokens: int, *, has_adapter: bool) -> Seconds:
        """Of all metrics on those of these items that they need."""
        paces = self.after if has_adapter else self.base
        return sum(
            (pace.times(scored_tokens(items_of(group, items), batch_tokens)) for group, pace in paces.items()), NONE
        )


def _stages(bench: Bench, run: TrainingRun, paces: Paces, loaded: float) -> list[Stage]:
    cell, items, size = bench.cell, bench.items, bench.settings.batch_tokens
    of_sample = of_clients(items, [bench.clients.ids[client] for client in bench.local_sample])
    unseen = [] if trains_alone(bench.method) else [item for item in items if item.part == "unseen"]
    own = [*of_sample, *unseen] if bench.method.personal else items
    done = load_server(cell.folder / "checkpoint")
    stages = [
        Stage("load", Seconds(loaded, loaded, loaded)),
        *_reference(bench, paces),
        _unless(base_note(bench), "score the base", lambda: paces.scoring(items, size, has_adapter=False)),
        Stage("train", paces.step.times(trained_tokens(run, done.round if done else 0))),
        _unless(
            "done" if has_scores(cell.folder, "after", bench.metrics) else "",
            "score",
            lambda: paces.scoring(own, size, has_adapter=True),
        ),
    ]
    if trains_alone(bench.method):
        return stages

    def alone() -> Seconds:
        tokens = trained_tokens(replace(run, only=frozenset(bench.local_sample), method=FedAvg(), timeline=None))
        return stages[0].needed + paces.step.times(tokens) + paces.scoring(of_sample, size, has_adapter=True)

    return [*stages, _unless("done" if cell.baseline.finished() else "", BASELINE, alone)]


def _unless(note: str, name: str, compute: Callable[[], Seconds]) -> Stage:
    """A stage with nothing left to do where there is a `note`."""
    return Stage(name, None, note) if note else Stage(name, compute())


def base_note(bench: Bench) -> str:
    """Why the base need not be scored; "" where it must."""
    if has_scores(bench.cell.folder, "before", bench.metrics):
        return "done"
    return "in the cache" if has_scores(base_scores(bench), "before", bench.metrics) else ""


def _reference(bench: Bench, paces: Paces) -> list[Stage]:
    """Of preferences: log-probabilities of every pair under the base. A pair takes as long as one that is scored."""
    parts = referenced(bench.config, bench.metrics, bench.clients.tokens)
    if not parts:
        return []
    note = "in the cache" if has_reference(bench.cell, bench.model, parts) else ""
    tokens = sum(int(np.diff(part.sequences.starts).sum()) for part in parts.values())
    return [_unless(note, "reference", lambda: max(paces.after.values(), key=lambda pace: pace.about).times(tokens))]


def _left_out(config: RunConfig) -> tuple[str, ...]:
    """Settings whose work is in no stage here."""
    evaluation = config.evaluation
    keys = {"evaluation.every": evaluation.every, "evaluation.personal_steps": evaluation.personal_steps}
    keys |= {"federation.patience (checks, and an earlier end)": config.federation.patience}
    keys |= {"the alignment and the scores of offsite tuning": config.offsite.is_on}
    keys |= {"what more than one worker of engine=ray saves": config.engine == "ray"}
    return tuple(key for key, value in keys.items() if value)
