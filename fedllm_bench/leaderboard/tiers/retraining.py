"""The tier `retrained`: the config run again, and the claimed means held against what comes out.

On another machine sums round otherwise and training drifts apart, so equality is not asked for: the claimed mean must
not be better than the new one by more than two seeds of the same cell differ. The band comes from the suite's own runs
of that cell (:mod:`bands`), never from the submission's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison.run_scores import differences
from fedllm_bench.config.run import RunConfig
from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.recompute import means, seed_scores
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.leaderboard.submission.schema import RunEntry
from fedllm_bench.leaderboard.tiers.bands import FEWEST, Band, shipped_bands, too_good
from fedllm_bench.leaderboard.tiers.regenerating import Own, cell_of, config_of, has_own_adapters
from fedllm_bench.leaderboard.tiers.sample import ItemSample, Made
from fedllm_bench.pipeline.stages import run_cell
from fedllm_bench.runs.cell import in_one_process

# What may differ between a run and a band of its cell: it names the run, or changes no number but by rounding.
LOOSE = ("seed", "split", "engine", "model.name", "local.block_size", "local.gradient_checkpointing")


def retrain(bundle: Bundle, context: CheckContext, sample: ItemSample, own: Own, band: Band, out: Path) -> Made:
    """Train the seed that `sample` names again, in `out`, where a killed training goes on.

    Raises a :class:`UserError` where the band is of another cell, or split or base are not at hand.
    """
    chosen = sample.one(str(run.seed) for run in bundle.runs())
    run = next(run for run in bundle.runs() if str(run.seed) == chosen)
    _check_band(run, band)
    cell = cell_of(run, context, own, out)
    evaluation = cell.config.evaluation
    if not has_own_adapters(cell.config):  # else the sample is whose scores the claim is of
        evaluation = replace(evaluation, local_clients=1)  # the baseline is no part of the claim
    results = run_cell(cell.like(replace(in_one_process(cell.config), evaluation=evaluation)))
    again = {name: entry["after"]["mean"] for name, entry in results["metrics"].items()}
    claimed = means(seed_scores(run))
    shown = {name: {"claimed": claimed.get(name), "again": again.get(name), "band": band.width(name)}
             for name in band.metrics}  # fmt: skip
    return Made(ids=[f"seed {run.seed}"], problems=too_good(band, claimed, again), details=shown)


def shipped_band(run: RunFiles) -> Band:
    """The suite's own band of the run's cell. Raises a :class:`UserError` where none is shipped."""
    config = config_of(run)
    for band in shipped_bands():
        if not _apart(run.entry, config, band):
            return band
    raise UserError(
        f"no band of {config.method.name} with these settings on this split is shipped; "
        f"run it under {FEWEST} or more seeds of your own and give --band RUN RUN ..."
    )


def _check_band(run: RunFiles, band: Band) -> None:
    if keys := _apart(run.entry, config_of(run), band):
        raise UserError(f"the band is of another cell: it differs in {', '.join(keys[:5])}; make one of this cell")


def _apart(entry: RunEntry, config: RunConfig, band: Band) -> list[str]:
    """In what a run is of another cell than a band."""
    if (band.split_hash, band.base_hash) != (entry.split_hash, entry.base_hash):
        return ["split or base model"]
    keys = differences(config.to_dict(), band.config, besides=LOOSE)
    return [key for key in keys if not key.startswith("evaluation.")]
