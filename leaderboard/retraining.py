"""The tier `retrained`: the config run again, and the claimed means held against what comes out.

On another machine sums round otherwise and training drifts apart, so equality is not asked for: the claimed mean must
not be better than the new one by more than two seeds of the same cell differ. The band comes from the suite's own runs
of that cell (:mod:`bands`), never from the submission's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedllm_bench.errors import UserError
from fedllm_bench.evaluation.scored_runs import differences
from fedllm_bench.stages import run_cell

from .bands import Band, too_good
from .bundle import Bundle
from .context import Context
from .recompute import means, seed_scores
from .regenerating import Own, cell_of
from .run_files import RunFiles
from .sampled import Made, Sample


def retrain(bundle: Bundle, context: Context, sample: Sample, own: Own, band: Band, out: Path) -> Made:
    """Train the seed that `sample` names again, in `out`, where a killed training goes on.

    Raises a :class:`UserError` where the band is of another cell, or split or base are not at hand.
    """
    chosen = sample.one(str(run.seed) for run in bundle.runs())
    run = next(run for run in bundle.runs() if str(run.seed) == chosen)
    _check_band(run, band)
    cell = cell_of(run, context, own, out)
    few = replace(cell.config.evaluation, local_clients=1)  # the baseline is no part of the claim
    results = run_cell(cell.like(replace(cell.config, evaluation=few)))
    again = {name: entry["after"]["mean"] for name, entry in results["metrics"].items()}
    claimed = means(seed_scores(run))
    shown = {name: {"claimed": claimed.get(name), "again": again.get(name), "band": band.width(name)}
             for name in band.metrics}  # fmt: skip
    return Made(ids=[f"seed {run.seed}"], problems=too_good(band, claimed, again), details=shown)


def _check_band(run: RunFiles, band: Band) -> None:
    entry, config = run.entry, run.config().to_dict()
    if (band.split_hash, band.base_hash) != (entry.split_hash, entry.base_hash):
        raise UserError("the band is of another split or base model; make one of runs of this cell")
    loose = ("seed", "split", "model.name", "local.block_size", "local.gradient_checkpointing")
    ours = {key: value for key, value in config.items() if key not in ("seed", "split")}
    keys = [key for key in differences(ours, band.config, besides=loose) if not key.startswith("evaluation.")]
    if keys:
        raise UserError(f"the band is of another cell: it differs in {', '.join(keys[:5])}; make one of this cell")


def read_runs(folders: list[Path]) -> list[Path]:
    """Run folders, each given as such or inside the folder of a method's runs."""
    found = [folder for path in folders for folder in ([path] if (path / "config.json").is_file() else _inside(path))]
    if not found:
        raise UserError("no finished runs there; give run folders with results.json")
    return found


def _inside(path: Path) -> list[Path]:
    return [child for child in sorted(path.glob("s*")) if (child / "results.json").is_file()]
