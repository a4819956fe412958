"""What can be wrong with a submission: stable codes, so that a reader, a test and a pull request mean the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedllm_bench.errors import UserError

Level = Literal["refused", "flagged"]

# Code -> what it means. The only list: a Problem with another code cannot be made.
PROBLEMS: dict[str, str] = {
    # the folder or zip itself
    "unreadable": "the path is no folder or zip that can be read",
    "zip": "the zip is broken, encrypted, packed by an unusual method or too large",
    "zip-bomb": "a file unpacks to far more than any record of a run",
    "link": "a link, which could point outside the submission",
    "special-file": "a device, pipe or socket",
    "unsafe-name": "a name that could leave the folder, or that not every system can store",
    "name-twice": "two names that differ in upper and lower case only, or not at all",
    "too-many-files": "more files or folders than any submission has",
    "too-large": "a file, or all together, larger than is allowed",
    "not-a-submission": "there is no submission.json",
    # texts
    "not-text": "not UTF-8, or half a character",
    "not-json": "no JSON, or a number that no finite float can hold",
    "deep-json": "JSON nested deeper than any record",
    "key-twice": "a JSON object with one key twice: two readers would see two values",
    "long-line": "a line longer than any record",
    "not-gzip": "a file named .gz that is none, or is cut",
    "record": "a line or file that is no such record",
    # submission.json
    "schema": "submission.json does not fit its schema",
    "seed-twice": "two runs of one seed",
    # the hash chain
    "file-unknown": "a file that has no place in a submission",
    "file-unlisted": "a file that submission.json does not list",
    "file-missing": "a file that submission.json lists and that is not there",
    "file-required": "a record that every run needs and that this one does not have",
    "file-hash": "a file whose sha256 is not the listed one",
    "file-bytes": "a file whose size is not the listed one",
    "adapter": "the adapter in the folder is not the one that submission.json states",
    # the rules of the track
    "track-rule": "a setting that the rules of the track do not allow",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`level` "refused" keeps the submission out; "flagged" asks a person to look. `where` is a file or field."""

    code: str
    message: str
    where: str = ""
    level: Level = "refused"

    def __post_init__(self) -> None:
        if self.code not in PROBLEMS:
            raise ValueError(f"no problem {self.code!r}; add it to PROBLEMS")

    @property
    def line(self) -> str:
        """One line for a terminal; control characters, which a terminal would obey, are escaped."""
        where = f"{self.where}: " if self.where else ""
        return "".join(
            c if c.isprintable() else ascii(c)[1:-1] for c in f"{self.level} [{self.code}] {where}{self.message}"
        )


class Refused(UserError):
    """Untrusted input with something wrong in it: a :class:`UserError` that knows its problem."""

    def __init__(self, code: str, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.problem = Problem(code=code, message=message, where=where)


def refusals(problems: Iterable[Problem]) -> list[Problem]:
    """Those that keep a submission out."""
    return [problem for problem in problems if problem.level == "refused"]
