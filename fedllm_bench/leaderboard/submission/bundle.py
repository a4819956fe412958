"""A submission as data: opened, bounded, and checked against its own hash chain. Untrusted files are read here only."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedllm_bench.common.files import sha256_json
from fedllm_bench.leaderboard.submission import layout
from fedllm_bench.leaderboard.submission.limits import LIMITS, SizeLimits
from fedllm_bench.leaderboard.submission.listing import few, list_folder, shown
from fedllm_bench.leaderboard.submission.problems import Problem, Refused
from fedllm_bench.leaderboard.submission.reading import digest_of, json_bytes, json_objects, json_value, read_plain
from fedllm_bench.leaderboard.submission.run_files import RunFiles as RunFiles
from fedllm_bench.leaderboard.submission.schema import MOST_BYTES, SUBMISSION, Submission, examine
from fedllm_bench.leaderboard.submission.untrusted import loads
from fedllm_bench.leaderboard.submission.unzipping import unpack


@dataclass(frozen=True)
class Bundle:
    """`files`: path inside the submission -> where it lies, of those that are whole, bounded and readable.

    `digest` names the submission: the sha256 of submission.json as JSON, which holds those of all its files.
    `records` are what maintainers' commands wrote later; the hash chain does not cover them.
    """

    folder: Path
    submission: Submission
    digest: str
    files: Mapping[str, Path]
    records: Mapping[str, Path] = field(default_factory=dict)

    def runs(self) -> list[RunFiles]:
        """In order of seeds."""
        return [
            RunFiles(entry, self.files)
            for seed in self.submission.seeds
            for entry in self.submission.runs
            if entry.seed == seed
        ]

    def record(self, path: str) -> Any:
        """A record of a tier as JSON; Refused where it is none."""
        return json_value(self.records[path], path)


def open_bundle(
    path: Path, limits: SizeLimits = LIMITS, *, contents: bool = True
) -> tuple[Bundle | None, list[Problem]]:
    """The submission in a folder or zip, with everything that is wrong with its files.

    None where there is no submission.json that fits its schema. A file with a wrong hash stays in `files`, so that
    all that follows from it is found too; one that cannot be read safely does not. Without `contents` the records
    are not parsed here: for submissions that were validated before. A zip is unpacked into a temporary folder,
    which goes with the Bundle.
    """
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        return None, [Problem(code="unreadable", message="no such folder or zip, or a link", where=shown(str(path)))]
    if path.is_dir():
        return _open_folder(path, limits, contents)
    folder = Path(tempfile.mkdtemp(prefix="fedllm-bench-"))
    try:
        refused = unpack(path, folder, limits)
        bundle, problems = _open_folder(folder, limits, contents)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if bundle is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        weakref.finalize(bundle, shutil.rmtree, folder, ignore_errors=True)
    return bundle, [*refused, *problems]


def _open_folder(folder: Path, limits: SizeLimits, contents: bool) -> tuple[Bundle | None, list[Problem]]:
    listing = list_folder(folder, limits)
    if SUBMISSION not in listing.files:
        missing = Problem(
            code="not-a-submission", message=f"there is no readable {SUBMISSION}", where=shown(folder.name)
        )
        return None, [*listing.problems, missing]
    try:
        submission, value, problems = examine(read_plain(listing.files[SUBMISSION], MOST_BYTES, SUBMISSION))
    except Refused as refused:
        return None, [*listing.problems, refused.problem]
    if submission is None:
        return None, [*listing.problems, *few(problems)]
    covered = {name: path for name, path in listing.files.items() if layout.is_covered(name)}
    records = {name: path for name, path in listing.files.items() if layout.is_record(name)}
    bundle = Bundle(folder, submission, sha256_json(value), covered, records)
    problems = [*listing.problems, *few([*_chain(bundle, limits), *layout.missing(submission, covered)])]
    return _readable(bundle, limits, problems) if contents else (bundle, problems)


def _chain(bundle: Bundle, limits: SizeLimits) -> Iterator[Problem]:
    """The files are those that submission.json lists, byte for byte."""
    listed = bundle.submission.files
    for name in sorted(bundle.files.keys() | listed.keys()):
        if name not in listed:
            yield Problem(code="file-unlisted", message=f"{SUBMISSION} does not list it", where=name)
        elif name not in bundle.files:
            yield Problem(code="file-missing", message=f"{SUBMISSION} lists it; it is not there", where=shown(name))
        else:
            yield from _same(bundle, name, limits)
    yield from _adapters(bundle.submission)


def _same(bundle: Bundle, name: str, limits: SizeLimits) -> Iterator[Problem]:
    stated = bundle.submission.files[name]
    try:
        sha256, size = digest_of(bundle.files[name], limits.file_stored)
    except Refused as refused:
        yield replace(refused.problem, where=name)
        return
    if size != stated.bytes:
        yield Problem(code="file-bytes", message=f"{size} bytes, not {stated.bytes} as listed", where=name)
    if sha256 != stated.sha256:
        text = f"sha256 {sha256[:16]}..., not {stated.sha256[:16]}... as listed: it was changed"
        yield Problem(code="file-hash", message=text, where=name)


def _adapters(submission: Submission) -> Iterator[Problem]:
    """A run's adapter is inside if it says so, and then it is the stated one."""
    for run in submission.runs:
        where = f"runs/{run.seed}/adapter/adapter_model.safetensors"
        inside, stated = submission.files.get(where), run.adapter
        if (inside is not None) != (stated is not None and stated.inside):
            yield Problem(code="adapter", message="`inside` and the files of the run disagree", where=where)
        elif inside and stated and (inside.sha256, inside.bytes) != (stated.sha256, stated.bytes):
            yield Problem(code="adapter", message="the run states another sha256 or size", where=where)


def _readable(bundle: Bundle, limits: SizeLimits, problems: list[Problem]) -> tuple[Bundle, list[Problem]]:
    """The bundle without the files whose contents no reader should meet."""
    good, found = {}, []
    size, count = 0, 0
    for name, path in [*bundle.files.items(), *bundle.records.items()]:
        try:
            if size > limits.all_unpacked or count > limits.all_lines:
                text = f"all files unpack to more than {limits.all_unpacked} bytes or {limits.all_lines} lines"
                raise Refused("zip-bomb", text, name)
            for line in _read_through(path, name, limits):
                size, count = size + line, count + 1
            good[name] = path
        except Refused as refused:
            found.append(refused.problem)
    records = {name: path for name, path in good.items() if name in bundle.records}
    covered = {name: path for name, path in good.items() if name in bundle.files}
    return replace(bundle, files=covered, records=records), [*problems, *few(found)]


def _read_through(path: Path, name: str, limits: SizeLimits) -> Iterator[int]:
    """Parse all of a file; the bytes of each line, or of all of one that has no lines."""
    if name.endswith(".jsonl.gz"):
        yield from (len(line) for line, _ in json_objects(path, name, limits))
    elif name.endswith((".json", ".json.gz")):
        content = json_bytes(path, name, limits)
        loads(content, name)
        yield len(content)
    else:
        yield path.stat().st_size
