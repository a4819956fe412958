"""Records of what a maintainer made again: each says what was sampled, and whether it came out the same.

A record lies beside the files that the hash chain covers, so it names the digest of the submission it is of: after any
change to the submission it no longer counts.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedllm_bench import __version__
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission.bundle import Bundle

Checked = Literal["rejudged", "regenerated", "retrained"]
Tier = Literal["recomputed", "rejudged", "regenerated", "retrained"]
ORDER: tuple[Tier, ...] = ("recomputed", "rejudged", "regenerated", "retrained")
VERSION: Literal[1] = 1


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Record:
    """`name` is who made it, `ids` what was sampled with `seed`. `outcome` "passed" lifts the submission to `tier`."""

    version: Literal[1]
    tier: Checked
    name: str
    date: str
    command: str
    suite: str
    digest: str
    seed: int
    ids: list[str]
    outcome: Literal["passed", "failed"]
    details: dict[str, Any]


RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def tier_of(bundle: Bundle) -> Tier:
    """The highest tier with a record that passed on this very content, and none after it that failed."""
    found = records_of(bundle)
    latest = {record.tier: record for record in found}  # in order of dates and numbers
    passed = [tier for tier, record in latest.items() if record.outcome == "passed"]
    return max(("recomputed", *passed), key=ORDER.index)


def records_of(bundle: Bundle) -> list[Record]:
    """Those of this digest, in order of time; what is no record is passed over: it lifts nothing."""
    found = []
    for path in sorted(bundle.records, key=when):
        try:
            record = RECORD.validate_json(files.canonical_json(bundle.record(path)))
        except (UserError, ValidationError):
            continue
        if record.digest == bundle.digest and path.removeprefix("records/").startswith(f"{record.tier}-"):
            found.append(record)
    return found


def when(path: str) -> tuple[str, int]:
    """The day and the number in a record's name, by which later records of a tier stand in for earlier ones."""
    _, year, month, day, number = path.removesuffix(".json").rsplit("-", 4)
    return f"{year}-{month}-{day}", int(number)


def write_record(folder: Path, record: Record) -> Path:
    """records/<tier>-<date>-<n>.json in the submission's folder, with the first n that is free."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; a record is written into the folder of a submission, not into a zip")
    place = files.make_folder(folder / "records")
    number = 1
    while (path := place / f"{record.tier}-{record.date}-{number}.json").exists():
        number += 1
    files.write_json(path, asdict(record))
    return path


def new_record(
    bundle: Bundle,
    tier: Checked,
    *,
    name: str,
    command: str,
    seed: int,
    ids: Sequence[str],
    problems: Sequence[str],
    details: dict[str, Any],
) -> Record:
    """Of today; it passes where there are no `problems`."""
    return Record(
        version=VERSION,
        tier=tier,
        name=name,
        date=datetime.date.today().isoformat(),
        command=command,
        suite=__version__,
        digest=bundle.digest,
        seed=seed,
        ids=list(ids),
        outcome="failed" if problems else "passed",
        details={**details, "problems": list(problems)[:20]},
    )
