"""Finished runs of one cell under several seeds, as they lie on the disk of whoever submits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import part_of
from fedllm_bench.comparison.run_scores import RUN_NAME, differences
from fedllm_bench.config.run import RunConfig, check
from fedllm_bench.results.schema import SCHEMA_VERSION
from fedllm_bench.runs.cell import BASELINE, OUTPUTS, RESULTS

CONFIG, ENVIRONMENT, ROUNDS = "config.json", "environment.json", "rounds.jsonl"
ALIKE = {  # what runs of one row must share, beside the config: where it stands in environment.json
    "the split": ("data", "split_hash"),
    "the base model": ("data", "base_hash"),
    "the version of fedllm-bench": ("fedllm_bench",),
}


@dataclass(frozen=True, kw_only=True)
class OwnRun:
    """A finished run folder, read and found whole."""

    folder: Path
    config: RunConfig
    environment: Mapping[str, Any]
    results: Mapping[str, Any]
    baseline: Path | None  # the run of `local` that results.json compares with, where it is at hand

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def adapter(self) -> Path | None:
        """The trained adapter's folder; None where each client has its own, or all weights were trained."""
        folder = self.folder / OUTPUTS["adapter"]
        return folder if folder.is_dir() else None

    def environment_value(self, keys: Sequence[str]) -> Any:
        value: Any = self.environment
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def open_runs(paths: Sequence[Path], *, dirty: bool = False) -> list[OwnRun]:
    """The runs in order of seeds; a path is a run folder, or a folder of runs of one method (runs/<data>/<method>).

    Raises a :class:`UserError` where they are not finished, or not one cell under several seeds; and, unless `dirty`
    ones are allowed, for runs of code with changes that no commit has.
    """
    runs = sorted((open_run(folder) for path in paths for folder in _folders(path)), key=lambda run: run.seed)
    if (changed := [run.folder for run in runs if run.environment.get("dirty")]) and not dirty:
        raise UserError(f"RUN={changed[0]}: its code had changes that no commit has, so nobody can run it again; "
                        "commit them and run again, or give --allow-dirty, which the row's page tells")  # fmt: skip
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise UserError(f"RUN={one.folder} and {other.folder} have one seed, {one.seed}; give one run for each")
        if keys := differences(one.config.to_dict(), other.config.to_dict(), besides=("seed",)):
            raise UserError(f"RUN={one.folder} and {other.folder} are not one cell: {', '.join(keys[:5])} differ; "
                            "give runs that differ in their seed alone")  # fmt: skip
        for what, where in ALIKE.items():
            if one.environment_value(where) != other.environment_value(where):
                raise UserError(f"RUN={one.folder} and {other.folder} are not one cell: {what} differs; run one again")
    return runs


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"RUN={path}: no such folder; give one that `fedllm-bench bench` printed as `Run folder`")
    if (path / CONFIG).is_file():
        return [path]
    inside = [child for child in sorted(path.iterdir()) if RUN_NAME.fullmatch(child.name) and child.is_dir()]
    if not inside:
        raise UserError(f"RUN={path} is no run folder; give one that `fedllm-bench bench` printed as `Run folder`")
    return inside


def open_run(folder: Path) -> OwnRun:
    """Raises a :class:`UserError` for what is no run of this version of the suite, or has not ended."""
    config, environment = read_config(folder), read_object(folder, ENVIRONMENT)
    _check_whole(folder, config)
    results = read_object(folder, RESULTS)
    if results.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"RUN={folder}: {RESULTS} is of another version of the suite; {_again(config)}")
    baseline = _baseline(folder, config, results)
    return OwnRun(folder=folder, config=config, environment=environment, results=results, baseline=baseline)


def read_config(folder: Path) -> RunConfig:
    """Raises a :class:`UserError` where there is none of this version."""
    values = read_object(folder, CONFIG)
    try:
        return check(values)
    except UserError as error:
        raise UserError(f"RUN={folder}: {CONFIG} is not of this version ({error}); run it again") from error


def _baseline(folder: Path, config: RunConfig, results: Mapping[str, Any]) -> Path | None:
    """The run beside this one whose means are those that results.json calls `local`; None where there is none."""
    wanted = {name: entry["local"]["mean"] for name, entry in results["metrics"].items() if entry["local"]}
    if not wanted:
        return None
    place = folder.resolve().parent.parent / BASELINE
    for other in sorted(place.glob(f"s{config.seed}-*")):
        path = other / RESULTS
        found = files.read_json(path)["metrics"] if path.is_file() else {}
        if all(name in found and found[name]["after"]["mean"] == mean for name, mean in wanted.items()):
            return other
    return None


def _check_whole(folder: Path, config: RunConfig) -> None:
    if missing := next(_missing(folder, config), None):
        raise UserError(f"RUN={folder}: the run has not ended ({missing}); {_again(config)}")


def _missing(folder: Path, config: RunConfig) -> Iterator[str]:
    """What a finished run has and this one does not."""
    names = [RESULTS, ROUNDS, *_score_files(config)]
    yield from (f"there is no {name}" for name in names if not (folder / name).is_file())
    done = len(files.read_jsonl_so_far(folder / ROUNDS))
    if done != config.federation.rounds:
        yield part_of(done, config.federation.rounds, "round")
    outputs = {name for kind in OUTPUTS.values() for name in (kind, f"{kind}s")}
    if not any((folder / name).is_dir() for name in outputs):
        yield "there is no adapter"


def _score_files(config: RunConfig) -> list[str]:
    """Metrics on the questions of the mini world are passed over where there are none."""
    names = [name for name in config.evaluation.metrics if config.profile == "mini" or not name.startswith("mini_")]
    return [f"scores/{name}.{side}.jsonl" for name in names for side in ("before", "after")]


def _again(config: RunConfig) -> str:
    return f"give the command again that started it: fedllm-bench bench {config.dataset} {config.method.name} ..."


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of a run folder. Raises a :class:`UserError` where it is not there, or none."""
    try:
        value = files.read_json(folder / name)
    except (OSError, ValueError, RecursionError) as error:
        text = "is not there" if isinstance(error, OSError) else "is not JSON"
        raise UserError(f"RUN={folder}: {name} {text}; give a folder of a finished `fedllm-bench bench`") from error
    if not isinstance(value, dict):
        raise UserError(f"RUN={folder}: {name} is no JSON object; give a folder of a finished `fedllm-bench bench`")
    return value
