"""Finished runs of one cell under several seeds, as they lie on the disk of whoever submits them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison.run_scores import differences
from fedllm_bench.runs.cell import settings_hash
from fedllm_bench.runs.folder import CONFIG, GIVE, RESULTS, RunFaults, RunFolder, runs_in
from fedllm_bench.scores.tuning_seeds import FIRST_FOR_TUNING, is_for_tuning

ALIKE = {  # what runs of one row must share, beside the config: where it stands in environment.json
    "the split": ("data", "split_hash"),
    "the base model": ("data", "base_hash"),
    "the version of fedllm-bench": ("fedllm_bench",),
}


class OwnRun(RunFolder):
    """A run of this version of the suite, to be submitted or to be a band's."""

    faults = RunFaults(
        no_config="RUN={run}: config.json is not of this version ({error}); run it again",
        no_hash="{run}: environment.json does not name its split and base; run it again",
    )

    @property
    def adapter(self) -> Path | None:
        """None where clients were scored under their own: the global one is none that the row is of."""
        return None if self.results["run"].get("personal") else super().adapter

    @cached_property
    def baseline(self) -> Path | None:
        """The run beside this one whose means are those that results.json calls `local`; None where there is none."""
        wanted = {name: entry["local"]["mean"] for name, entry in self.results["metrics"].items() if entry["local"]}
        for other in self.baselines() if wanted else ():
            found = RunFolder(other).results["metrics"]
            if all(name in found and found[name]["after"]["mean"] == mean for name, mean in wanted.items()):
                return other
        return None


def open_runs(paths: Sequence[Path], *, dirty: bool = False) -> list[OwnRun]:
    """The runs in order of seeds; a path is a run folder, or a folder of runs of one method (runs/<data>/<method>).

    Raises a :class:`UserError` where they are not finished, or not one cell under several seeds; for seeds of tuning;
    and, unless `dirty` ones are allowed, for runs of code with changes that no commit has.
    """
    runs = sorted((open_run(folder) for path in paths for folder in _folders(path)), key=lambda run: run.seed)
    if (changed := [run.path for run in runs if run.environment.get("dirty")]) and not dirty:
        raise UserError(f"RUN={changed[0]}: its code had changes that no commit has, so nobody can run it again; "
                        "commit them and run again, or give --allow-dirty, which the row's page tells")  # fmt: skip
    if tuned := [run.path for run in runs if is_for_tuning(run.seed)]:
        raise UserError(f"RUN={tuned[0]}: settings are chosen on seeds from {FIRST_FOR_TUNING} on, which are never "
                        f"reported; run again with seeds below {FIRST_FOR_TUNING}")  # fmt: skip
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise UserError(f"RUN={one.path} and {other.path} have one seed, {one.seed}; give one run for each")
        if keys := differences(one.config.to_dict(), other.config.to_dict(), besides=("seed",)):
            raise UserError(f"RUN={one.path} and {other.path} are not one cell: {', '.join(keys[:5])} differ; "
                            "give runs that differ in their seed alone")  # fmt: skip
        for what, where in ALIKE.items():
            if one.environment_value(*where) != other.environment_value(*where):
                raise UserError(f"RUN={one.path} and {other.path} are not one cell: {what} differs; run one again")
    return runs


def check_unchanged(run: OwnRun) -> None:
    """A setting that was edited away, such as an attack, leaves another hash than that of the run."""
    right, said = settings_hash(run.config, run.split_hash, run.base_hash), run.results["run"]["config_hash"]
    if said != right:
        raise UserError(f"RUN={run.path}: {CONFIG} was changed after the run: its hash is {right}, and {RESULTS} says "
                        f"{str(said)[:20]!r}; put it back, or run again")  # fmt: skip


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"RUN={path}: no such folder; {GIVE}")
    if not (inside := runs_in(path)):
        raise UserError(f"RUN={path} is no run folder; {GIVE}")
    return inside


def open_run(folder: Path) -> OwnRun:
    """Raises a :class:`UserError` for what is no run of this version of the suite, or has not ended."""
    run = OwnRun(folder)
    _ = run.config, run.environment  # what is wrong with them is told first
    if missing := next(run.missing(), None):
        raise UserError(f"RUN={folder}: the run has not ended ({missing}); {run.again()}")
    if not run.is_of_version:
        raise UserError(f"RUN={folder}: {RESULTS} is of another version of the suite; {run.again()}")
    if run.config.offsite.is_on:
        raise UserError(f"RUN={folder}: offsite.variant={run.config.offsite.variant}: no track is of offsite tuning, "
                        "and no check of a board knows its bytes; submit a run without it")  # fmt: skip
    return run
