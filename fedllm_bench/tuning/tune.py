"""A search from what was asked to its folder: trials, the chosen setting, and whether it beats the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common import files, hardware
from fedllm_bench.common.text import counted
from fedllm_bench.pipeline.grid_progress import Tell
from fedllm_bench.pipeline.grid_run import alone_in, check_cells, default_jobs, threads_of
from fedllm_bench.runs.opening import open_cell
from fedllm_bench.runs.start_lines import start_lines
from fedllm_bench.tuning.confirming import confirm
from fedllm_bench.tuning.payload import tune_payload
from fedllm_bench.tuning.request import (
    Opened,
    TuneRequest,
    check_default,
    check_effects,
    check_ends,
    check_request,
    own_words,
)
from fedllm_bench.tuning.search import check_installed
from fedllm_bench.tuning.searching import Session, best_of, search
from fedllm_bench.tuning.trials import Trial
from fedllm_bench.tuning.tune_files import write_all, write_so_far


@dataclass(frozen=True, kw_only=True)
class TuneDone:
    """`payload` is tune.json (docs/tuning.md); `codes` are exit codes of the runs that failed."""

    folder: Path
    payload: Mapping[str, Any]
    codes: Sequence[int]


def open_tune(asked: TuneRequest, cuda: bool) -> Opened:
    """Check all that can be checked before anything is run, and open the split.

    Raises a :class:`UserError` for what is wrong with the request, or missing here.
    """
    from fedllm_bench.methods.registry import is_personal  # loads torch
    from fedllm_bench.runs.loading import check_cell

    check_installed()
    given = asked.run
    asked = replace(asked, run=replace(given, overrides=(*own_words(given, personal=True), *given.overrides)))
    config = check_request(asked)
    searched = {each.key for each in asked.space}
    personal = "communication.lora_aggregation" in searched or is_personal(config)
    asked = replace(asked, run=replace(given, overrides=(*own_words(given, personal=personal), *given.overrides)))
    first = open_cell(asked.run.config(asked.method, asked.run.seeds[0]), given.out, cuda)
    opened = Opened(asked=asked, first=first)
    check_default(opened, check_cell)
    check_ends(asked, lambda config: check_cell(opened.first.like(config)))
    check_effects(opened)
    return opened


def finish_tune(asked: TuneRequest, jobs: int | None, tell: Tell, *, first: str = "", bar: bool = True) -> TuneDone:
    """Run what is left of a search and report it. `jobs` is None for as many runs at once as the machine fits.

    `tell` gets the line `first` when all is checked, then one for each run. Raises a :class:`UserError` for what is
    wrong with the request or can be known to fail, and where another process runs the search.
    """
    cuda = hardware.has_cuda()
    opened = open_tune(asked, cuda)
    folder, at_once = opened.folder, jobs or default_jobs(cuda)
    default = opened.cells(opened.default, asked.run.seeds, "default")
    if any(not each.is_finished() for each in default):
        check_cells(default)
    files.make_folder(folder)
    for line in (first, *start_lines(opened.first), _heading(opened, at_once), f"Folder of the search {folder}"):
        if line:
            tell(line)
    with alone_in(folder, what="search"):
        session = Session(opened=opened, jobs=at_once, tell=tell, bar=bar)
        try:
            payload = _searched(session)
        finally:
            session.progress.bar.close()
    return TuneDone(folder=folder, payload=payload, codes=session.codes)


def _heading(opened: Opened, jobs: int) -> str:
    asked = opened.asked
    seeds = f"seeds {', '.join(map(str, asked.run.seeds))}, which are never reported"
    return (
        f"Search by {asked.search}: {counted(asked.trials, 'trial')} of {asked.method}, the default first; {seeds}; "
        f"{counted(jobs, 'run')} at once, cores for each: {threads_of(jobs)}."
    )


def _searched(session: Session) -> dict[str, Any]:
    opened = session.opened

    def reached(trials: Sequence[Trial]) -> None:
        if session.progress.ended:  # else they are trials of an earlier session, whose files know more
            write_so_far(tune_payload(opened, trials, None), opened.folder)

    trials = search(session, reached)
    chosen = best_of(trials, opened.asked.metric, opened.budgets[-1])
    payload = tune_payload(opened, trials, confirm(session, chosen) if chosen else None)
    write_all(payload, opened.folder)
    return payload
