"""Which files a submission may hold, which each run must, and where the submissions of a board lie."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from fedllm_bench.config.plugins import SOURCES
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.schema import SUBMISSION, Submission

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
RUN = r"runs/(?P<seed>0|[1-9][0-9]{0,9})/"
SIDES = ("before", "after", "local", "personal")
# Every file beside submission.json, as a pattern of its path.
COVERED = tuple(
    re.compile(RUN + rest, re.ASCII)
    for rest in (
        r"(?:config|environment)\.json",
        r"results\.json\.gz",
        r"(?:rounds|clients)\.jsonl\.gz",
        rf"scores/{NAME}\.(?:{'|'.join(SIDES)})\.jsonl\.gz",
        rf"answers/{NAME}/plan\.json",
        rf"answers/{NAME}/{NAME}\.jsonl\.gz",
        rf"closed/{NAME}/plan\.json",
        rf"closed/{NAME}/{NAME}\.jsonl\.gz",
        rf"judgements/{NAME}/judge\.json",
        rf"judgements/{NAME}/{NAME}/{NAME}\.jsonl\.gz",
        rf"{SOURCES}/{NAME}\.py",
        r"adapter/adapter_config\.json",
        r"adapter/adapter_model\.safetensors",
    )
)
# Written later by a maintainer's commands; each names the digest of the submission, so the hash chain leaves it out.
RECORD = re.compile(r"records/(?P<tier>[a-z]+)-(?P<date>\d{4}-\d\d-\d\d)-\d{1,6}\.json", re.ASCII)
OF_EVERY_RUN = ("config.json", "environment.json", "results.json.gz", "rounds.jsonl.gz")
PACKED = re.compile(r".*\.jsonl|results\.json")  # of the files of a run folder; the others are small
DEPTH = 6  # parts of the longest path


def is_covered(path: str) -> bool:
    """Whether `path` is one of a run's files."""
    return any(pattern.fullmatch(path) for pattern in COVERED)


def packed_name(name: str) -> str:
    """The name inside a submission of a file of a run folder."""
    return f"{name}.gz" if PACKED.fullmatch(name) else name


def is_record(path: str) -> bool:
    return RECORD.fullmatch(path) is not None


def is_known(path: str) -> bool:
    return path == SUBMISSION or is_covered(path) or is_record(path)


def missing(submission: Submission, paths: Collection[str]) -> Iterator[Problem]:
    """What the runs of a submission lack, and files of runs that it does not name.

    A run of the suite has its records; every run, also one made elsewhere, has at least a file of scores, answers or
    samples.
    """
    seeds = set(submission.seeds)
    for seed in sorted(seeds):
        folder = f"runs/{seed}"
        for name in OF_EVERY_RUN if submission.suite.version else ():
            if f"{folder}/{name}" not in paths:
                yield Problem(code="file-required", message="every run of the suite has it", where=f"{folder}/{name}")
        records = tuple(f"{folder}/{kind}/" for kind in ("scores", "answers", "closed"))
        if not any(path.startswith(records) for path in paths):
            yield Problem(code="file-required", message="there are neither scores nor answers", where=folder)
    for path in sorted(paths):
        found = re.match(RUN, path)
        if found and int(found["seed"]) not in seeds:
            yield Problem(code="file-unknown", message="submission.json names no run of this seed", where=path)


def submissions_in(board: Path) -> Iterator[Path]:
    """The folders of `board` that hold a submission.json, by name; links are passed over."""
    if board.is_dir():
        for path in sorted(board.iterdir()):
            if path.is_dir() and not path.is_symlink() and (path / SUBMISSION).is_file():
                yield path
