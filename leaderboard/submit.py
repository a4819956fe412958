"""From finished runs to a submission, which is opened as a stranger's would be before anybody sees it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedllm_bench import files
from fedllm_bench.errors import UserError

from .bundle import Bundle, open_bundle
from .limits import LIMITS, MIB
from .own_runs import OwnRun
from .packing import adapter_digest, contents_of, listed
from .placing import Draft, write_files
from .problems import refusals
from .recompute import means, seed_scores
from .schema import SCHEMA_VERSION, SUBMISSION, examine
from .track_hook import check_track, default_track

Adapters = Literal["auto", "first", "all", "none"]
ADAPTERS: tuple[Adapters, ...] = ("auto", "first", "all", "none")
AUTO_BYTES = MIB  # an adapter of at most this size goes with the submission
OPTIONS = {"method", "team", "url", "contact", "date", "tuning", "training_data", "track"}
SMALLEST = 1e-9


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What only the submitter can say; all of it becomes public. `track` "" is the runs' default one."""

    team: str
    contact: str
    tuning: str
    method: str
    date: str
    url: str = ""
    training_data: str = "only the split"
    track: str = ""
    kind: Literal["method", "canary"] = "method"
    adapters: Adapters = "auto"
    adapter_url: str = ""  # where adapters can be fetched; "{seed}" stands for the seed


def draft(runs: Sequence[OwnRun], said: Statement) -> Draft:
    """The submission of `runs`, after it was opened as validation opens it.

    Raises a :class:`UserError` for what a track does not allow, for statements that cannot be shown, and for runs
    whose results.json does not follow from their scores.
    """
    track = said.track or default_track(runs[0])
    check_track(track, runs, said.kind)
    inside = _inside(runs, said.adapters)
    contents: dict[str, bytes] = {}
    for run in runs:
        contents |= contents_of(run, with_adapter=run.seed in inside)
    head = _head(runs, said, track, inside)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _opened({SUBMISSION: _encoded({**head, "claims": {}, "files": listed(contents)}), **contents}, scratch)
        claims = _claims(bundle, runs)
    text = _encoded({**head, "claims": claims, "files": listed(contents)})
    submission, value, problems = examine(text)
    if submission is None:  # the first examination found nothing
        raise AssertionError(problems)
    return Draft(submission=submission, contents={SUBMISSION: text, **contents}, digest=files.sha256_json(value))


def _head(runs: Sequence[OwnRun], said: Statement, track: str, inside: set[int]) -> dict[str, Any]:
    """submission.json without claims and files."""
    first = runs[0].environment
    commits = {run.environment.get("commit") for run in runs}
    shown = asdict(said)
    return {
        "version": SCHEMA_VERSION,
        "suite": {"version": first.get("fedllm_bench"), "commit": commits.pop() if len(commits) == 1 else None},
        "track": track,
        "kind": said.kind,
        **{key: shown[key] for key in ("method", "team", "url", "contact", "date")},
        "runs": [_entry(run, said, run.seed in inside) for run in runs],
        "tuning": said.tuning,
        "training_data": said.training_data,
    }


def _entry(run: OwnRun, said: Statement, is_inside: bool) -> dict[str, Any]:
    adapter, found = None, adapter_digest(run)
    if found is not None:
        address = said.adapter_url.replace("{seed}", str(run.seed))
        adapter = {"sha256": found[0], "bytes": found[1], "address": address, "inside": is_inside}
    return {
        "seed": run.seed,
        "config_hash": run.results["run"]["config_hash"],
        "base_hash": run.environment_value(("data", "base_hash")),
        "split_hash": run.environment_value(("data", "split_hash")),
        "adapter": adapter,
    }


def _inside(runs: Sequence[OwnRun], wanted: Adapters) -> set[int]:
    """The seeds whose adapters go with the submission."""
    sizes = {run.seed: found[1] for run in runs if (found := adapter_digest(run)) is not None}
    chosen = {
        "none": set[int](),
        "first": set(sorted(sizes)[:1]),
        "all": set(sizes),
        "auto": set(sizes) if all(size <= AUTO_BYTES for size in sizes.values()) else set[int](),
    }[wanted]
    if too_large := [seed for seed in sorted(chosen) if sizes[seed] > LIMITS.file_stored]:
        raise UserError(f"--adapters {wanted}: the adapter of seed {too_large[0]} is larger than the {LIMITS.file_stored} "
                        "bytes that are allowed; give --adapters none and --adapter-url")  # fmt: skip
    return chosen


def _encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _opened(contents: Mapping[str, bytes], scratch: str) -> Bundle:
    """The files as whoever validates them will open them. Raises a :class:`UserError` with all that is wrong."""
    folder = write_files(contents, Path(scratch) / "submission")
    bundle, problems = open_bundle(folder)
    wrong = refusals(problems)
    if bundle is None or wrong:
        raise UserError("; ".join(_as_option(problem.where, problem.message) for problem in wrong))
    return bundle


def _as_option(where: str, message: str) -> str:
    """A problem of submission.json as one of the option that the field came from."""
    field = where.removeprefix(f"{SUBMISSION}: ").partition(".")[0]
    is_address = where.endswith("adapter.address")
    name = "adapter-url" if is_address else field.replace("_", "-") if field in OPTIONS else ""
    return f"--{name}: {message}" if name else f"{where}: {message}"


def _claims(bundle: Bundle, runs: Sequence[OwnRun]) -> dict[str, dict[str, float | None]]:
    """Metric -> seed -> mean after training, computed from the records, which results.json must agree with."""
    claims: dict[str, dict[str, float | None]] = {}
    for files_of_run, run in zip(bundle.runs(), runs, strict=True):
        found = means(seed_scores(files_of_run))
        for metric, mean in found.items():
            claims.setdefault(metric, {})[str(run.seed)] = mean
        _check_results(run, found)
    return claims


def _check_results(run: OwnRun, found: Mapping[str, float | None]) -> None:
    for metric, entry in run.results["metrics"].items():
        said, is_there = entry["after"]["mean"], found.get(metric)
        if said is None or is_there is None:
            same = said is is_there
        else:
            same = abs(said - is_there) <= SMALLEST * max(1.0, abs(said))
        if not same:
            raise UserError(f"RUN={run.folder}: results.json says {metric} {said}, its scores give {is_there}; remove "
                            "results.json and give the command again that started the run")  # fmt: skip
