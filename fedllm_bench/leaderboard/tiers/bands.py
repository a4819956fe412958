"""How far two trainings of one cell lie apart: from the suite's own runs of it under five or more seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from scipy import stats

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.comparison.run_scores import differences
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.packing import public_config
from fedllm_bench.runs.folder import CONFIG, RESULTS
from fedllm_bench.scores.levels import BAND_CONFIDENCE

SHIPPED = "shipped_bands"
FEWEST = 5
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Spread:
    """Of the means of one metric over seeds."""

    mean: float
    sd: float
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Band:
    """`config` is that of the runs without its seed: a band holds for one cell."""

    version: int
    seeds: list[int]
    split_hash: str
    base_hash: str
    config: dict[str, Any]
    metrics: dict[str, Spread]

    def width(self, metric: str) -> float:
        """How much better than one run another may be by chance, one-sided: t sd sqrt(2), at BAND_CONFIDENCE."""
        n = len(self.seeds)
        return float(stats.t.ppf(BAND_CONFIDENCE, n - 1)) * self.metrics[metric].sd * math.sqrt(2)


BAND: TypeAdapter[Band] = TypeAdapter(Band)


def band_of(paths: Sequence[Path]) -> Band:
    """The band of finished runs; a path is a run folder, or the folder of a method's runs.

    Raises a :class:`UserError` where they are not one cell under five seeds.
    """
    runs = [OwnRun(folder) for path in paths for folder in _folders(path)]
    if not runs:
        raise UserError(f"{', '.join(map(str, paths))}: no finished run there; give run folders with {RESULTS}")
    configs, hashes = [run.config.to_dict() for run in runs], [(run.split_hash, run.base_hash) for run in runs]
    for other, of_other in zip(configs, hashes, strict=True):
        if keys := differences(configs[0], other, besides=("seed", "split")):
            raise UserError(f"a band is of one cell; the runs differ in {', '.join(keys[:5])}")
        if of_other != hashes[0]:
            raise UserError("a band is of one cell; the runs differ in their split or base model")
    seeds = sorted(run.seed for run in runs)
    if len(set(seeds)) < max(FEWEST, len(seeds)):
        got = ", ".join(map(str, seeds))
        raise UserError(f"a band needs runs of at least {FEWEST} seeds, one run for each seed; got seeds {got}")
    config = public_config(runs[0].config)  # without places on this machine: bands are shipped
    return Band(
        version=1,
        seeds=seeds,
        split_hash=hashes[0][0],
        base_hash=hashes[0][1],
        config={key: value for key, value in config.items() if key not in ("seed", "split")},
        metrics=_spreads(runs),
    )


def _folders(path: Path) -> list[Path]:
    if (path / CONFIG).is_file():
        return [path]
    return [child for child in sorted(path.glob("s*")) if (child / RESULTS).is_file()]


def _spreads(runs: Sequence[OwnRun]) -> dict[str, Spread]:
    """Of the metrics that every run has a mean of."""
    try:
        means = [{name: entry["after"]["mean"] for name, entry in run.results["metrics"].items()} for run in runs]
        everywhere = [name for name in means[0] if all(of_run.get(name) is not None for of_run in means)]
        higher = {name: bool(runs[0].results["metrics"][name]["higher_is_better"]) for name in everywhere}
        return {name: _spread([of_run[name] for of_run in means], higher[name]) for name in everywhere}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{RESULTS} of a run is not of this version ({first_line(error)}); run it again") from error


def _spread(values: Sequence[float], higher_is_better: bool) -> Spread:
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Spread(mean=mean, sd=sd, higher_is_better=higher_is_better)


def write_band(path: Path, band: Band) -> None:
    files.make_folder(path.parent)
    files.write_json(path, asdict(band))


def read_band(path: Path) -> Band:
    """Raises a :class:`UserError` for what is no band."""
    try:
        return BAND.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} is no band ({first_line(error)[:200]}); make one of runs of {FEWEST} seeds") from error


def shipped_bands() -> list[Band]:
    """Those that come with the suite, of its own runs."""
    folder = Path(str(package_files("fedllm_bench.board_data"))) / SHIPPED
    return [read_band(path) for path in sorted(folder.glob("*.json"))]


def too_good(band: Band, claimed: Mapping[str, float | None], again: Mapping[str, float | None]) -> list[str]:
    """Metrics whose claimed mean is better than that of the training made again, by more than seeds differ."""
    found = []
    for name, spread in band.metrics.items():
        one, other = claimed.get(name), again.get(name)
        if one is None or other is None:
            continue
        gain = (one - other) * (1 if spread.higher_is_better else -1)
        if gain > band.width(name) + 1e-9:
            found.append(f"{name}: claimed {one:.4g}, made again {other:.4g}; seeds differ by {band.width(name):.2g}")
    return found
