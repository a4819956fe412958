"""From finished runs to a submission, which is opened as a stranger's would be before anybody sees it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.bases.terms import bound_by
from fedllm_bench.leaderboard.submission.bundle import Bundle, open_bundle
from fedllm_bench.leaderboard.submission.dates import date_problems
from fedllm_bench.leaderboard.submission.limits import LIMITS, MIB
from fedllm_bench.leaderboard.submission.problems import refusals
from fedllm_bench.leaderboard.submission.recompute import is_own, means, seed_scores
from fedllm_bench.leaderboard.submission.schema import SCHEMA_VERSION, SUBMISSION, examine
from fedllm_bench.leaderboard.submission.submitted import reading
from fedllm_bench.leaderboard.submit.foreseen import check_foreseen
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.packing import adapter_digest, contents_of, encoded, listed
from fedllm_bench.leaderboard.submit.placing import Draft, write_files
from fedllm_bench.leaderboard.submit.track_fit import check_track, default_track

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
    date: str
    method: str = ""  # "" is the name of the runs' method
    url: str = ""
    training_data: str = "only the split"
    track: str = ""
    kind: Literal["method", "canary"] = "method"
    adapters: Adapters = "auto"
    adapter_url: str = ""  # where adapters can be fetched; "{seed}" stands for the seed


@dataclass(frozen=True, kw_only=True)
class DraftRun:
    """What a run brings: its entry in submission.json, its files, and the means that it claims itself."""

    about: Mapping[str, Any]
    contents: Mapping[str, bytes]
    results: Mapping[str, Any] | None = None


def draft(runs: Sequence[OwnRun], said: Statement) -> Draft:
    """The submission of `runs`, after it was opened as validation opens it.

    Raises a :class:`UserError` for what a track does not allow, for statements that cannot be shown, for records
    that validation refuses whatever else is there, and for runs whose results.json does not follow from their scores.
    """
    method = said.method or runs[0].config.method.name
    said = replace(said, method=method, track=said.track or default_track(runs[0]))
    check_track(said.track, runs, said.kind)
    inside = _inside(runs, said.adapters)
    commits = {run.environment.get("commit") for run in runs}
    suite = {
        "version": runs[0].environment.get("fedllm_bench"),
        "commit": commits.pop() if len(commits) == 1 else None,
    }
    return assemble([_entry(run, said, run.seed in inside) for run in runs], said, suite)


def assemble(entries: Sequence[DraftRun], said: Statement, suite: Mapping[str, Any]) -> Draft:
    """submission.json over the files of all entries. Raises as :func:`draft` does."""
    contents = {name: content for entry in entries for name, content in entry.contents.items()}
    head = {**_head(said, suite, [entry.about for entry in entries]), "files": listed(contents)}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = _opened({SUBMISSION: encoded({**head, "claims": {}}), **contents}, scratch)
        _check_day(bundle)
        check_foreseen(bundle)
        head["claims"] = _claims(bundle, entries)
    submission, value, problems = examine(text := encoded(head))
    if submission is None:  # the first examination found nothing
        raise AssertionError(problems)
    return Draft(submission=submission, contents={SUBMISSION: text, **contents}, digest=files.sha256_json(value))


def _head(said: Statement, suite: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """submission.json without claims and files."""
    shown = asdict(said)
    before, after = ("method", "team", "url", "contact", "date"), ("tuning", "training_data")
    return {
        "version": SCHEMA_VERSION,
        "suite": dict(suite),
        "track": said.track,
        "kind": said.kind,
        **{key: shown[key] for key in before},
        "runs": [dict(run) for run in runs],
        **{key: shown[key] for key in after},
    }


def _entry(run: OwnRun, said: Statement, is_inside: bool) -> DraftRun:
    adapter, found = None, adapter_digest(run)
    if found is not None:
        address = said.adapter_url.replace("{seed}", str(run.seed))
        adapter = {"sha256": found[0], "bytes": found[1], "address": address, "inside": is_inside}
    about = {"config_hash": run.results["run"]["config_hash"], **identity(run), "adapter": adapter}
    return DraftRun(about=about, contents=contents_of(run, with_adapter=is_inside), results=run.results["metrics"])


def identity(run: OwnRun) -> dict[str, Any]:
    """What a run was made of: its seed, and the hashes of base and split."""
    data = {key: run.environment_value("data", key) for key in ("base_hash", "split_hash")}
    return {"seed": run.seed, **data}


def _inside(runs: Sequence[OwnRun], wanted: Adapters) -> set[int]:
    """The seeds whose adapters go with the submission: none whose base binds others to its terms."""
    if terms := bound_by(runs[0].config.model.name, runs[0].adapter):
        _check_none_wanted(runs[0], wanted, terms)
        return set()
    sizes = {run.seed: found[1] for run in runs if (found := adapter_digest(run)) is not None}
    chosen = {
        "none": set[int](),
        "first": set(sorted(sizes)[:1]),
        "all": set(sizes),
        "auto": set(sizes) if all(size <= AUTO_BYTES for size in sizes.values()) else set[int](),
    }[wanted]
    if too_large := [seed for seed in sorted(chosen) if sizes[seed] > LIMITS.file_stored]:
        raise UserError(f"--adapters {wanted}: the adapter of seed {too_large[0]} exceeds the {LIMITS.file_stored} "
                        "bytes that are allowed; give --adapters none and --adapter-url")  # fmt: skip
    return chosen


def _check_none_wanted(run: OwnRun, wanted: Adapters, terms: str) -> None:
    if wanted in ("first", "all"):
        raise UserError(
            f"--adapters {wanted}: RUN={run.path} was trained on {run.config.model.name}, and what is made on it goes "
            f"to others only with its terms ({terms}), for which a submission has no place; give --adapters none, and "
            "--adapter-url of a place where the files of adapter/ lie together"
        )


def _opened(contents: Mapping[str, bytes], scratch: str) -> Bundle:
    """The files as whoever validates them will open them. Raises a :class:`UserError` with all that is wrong."""
    folder = write_files(contents, Path(scratch) / "submission")
    bundle, problems = open_bundle(folder)
    wrong = refusals(problems)
    if bundle is None or wrong:
        raise UserError("; ".join(_as_option(problem.where, problem.message) for problem in wrong))
    return bundle


def _check_day(bundle: Bundle) -> None:
    """Raises a :class:`UserError` for a day that validation would refuse."""
    with reading(bundle) as submitted:
        if wrong := next(date_problems(submitted), None):
            raise UserError(_as_option(wrong.where, wrong.message))


def _as_option(where: str, message: str) -> str:
    """A problem of submission.json as one of the option that the field came from."""
    field = where.removeprefix(f"{SUBMISSION}: ").partition(".")[0]
    is_address = where.endswith("adapter.address")
    name = "adapter-url" if is_address else field.replace("_", "-") if field in OPTIONS else ""
    return f"--{name}: {message}" if name else f"{where}: {message}"


def _claims(bundle: Bundle, entries: Sequence[DraftRun]) -> dict[str, dict[str, float | None]]:
    """Metric -> seed -> mean after training, computed from the records, which results.json must agree with."""
    claims: dict[str, dict[str, float | None]] = {}
    results = {entry.about["seed"]: entry.results or {} for entry in entries}
    for run in bundle.runs():
        found = means(seed_scores(run))
        for metric, mean in found.items():
            claims.setdefault(metric, {})[str(run.seed)] = mean
        own = run.own_metrics()
        for metric, entry in results[run.seed].items():
            if metric not in found and is_own(metric, own):  # of a plugin: nobody computes it again
                continue
            _check_result(run.seed, metric, entry["after"]["mean"], found.get(metric))
    return claims


def _check_result(seed: int, metric: str, said: float | None, found: float | None) -> None:
    is_same = said is found
    if said is not None and found is not None:
        is_same = abs(said - found) <= SMALLEST * max(1.0, abs(said))
    if not is_same:
        raise UserError(f"seed {seed}: results.json says {metric} {said}, the run's scores give {found}; remove "
                        "results.json and give the command again that started the run")  # fmt: skip
