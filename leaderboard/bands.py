"""How far two trainings of one cell lie apart: from the suite's own runs of it under five or more seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from scipy import stats

from fedllm_bench import files
from fedllm_bench.errors import UserError, first_line
from fedllm_bench.evaluation.scored_runs import differences

from .packing import public_name

SHIPPED = "shipped_bands"
LEVEL = 0.99
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
        """How much better than one run another may be by chance, one-sided: t sd sqrt(2), at LEVEL."""
        n = len(self.seeds)
        return float(stats.t.ppf(LEVEL, n - 1)) * self.metrics[metric].sd * math.sqrt(2)


BAND: TypeAdapter[Band] = TypeAdapter(Band)


def band_of(folders: Sequence[Path]) -> Band:
    """The band of finished run folders. Raises a :class:`UserError` where they are not one cell under five seeds."""
    configs = [files.read_json(folder / "config.json") for folder in folders]
    results = [files.read_json(folder / "results.json") for folder in folders]
    about = [files.read_json(folder / "environment.json")["data"] for folder in folders]
    seeds = sorted(int(config["seed"]) for config in configs)
    for config, data in zip(configs, about, strict=True):
        if keys := differences(configs[0], config, besides=("seed", "split")):
            raise UserError(f"a band is of one cell; the runs differ in {', '.join(keys[:5])}")
        if (data["split_hash"], data["base_hash"]) != (about[0]["split_hash"], about[0]["base_hash"]):
            raise UserError("a band is of one cell; the runs differ in their split or base model")
    if len(set(seeds)) < max(FEWEST, len(seeds)):
        got = ", ".join(map(str, seeds))
        raise UserError(f"a band needs runs of at least {FEWEST} seeds, one run for each seed; got seeds {got}")
    return Band(
        version=1,
        seeds=seeds,
        split_hash=about[0]["split_hash"],
        base_hash=about[0]["base_hash"],
        config=_public(configs[0]),
        metrics=_spreads([result["metrics"] for result in results]),
    )


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without seed, and without places on this machine: bands are shipped."""
    model = {
        key: public_name(value) if key in ("name", "adapter") and value else value
        for key, value in config["model"].items()
    }
    return {**{key: value for key, value in config.items() if key not in ("seed", "split")}, "model": model}


def _spreads(results: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    found = {}
    for name, entry in results[0].items():
        means = [one[name]["after"]["mean"] for one in results if name in one]
        if len(means) == len(results) and None not in means:
            mean = math.fsum(means) / len(means)
            sd = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1))
            found[name] = Spread(mean=mean, sd=sd, higher_is_better=bool(entry["higher_is_better"]))
    return found


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
    folder = Path(__file__).parent / SHIPPED
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
