"""Whose pairs a file of judgements has: its name says so (see `judging`), shortened to what a file's name can hold.

<side>-vs-<other run>-<other side>-<first 8 digits of the SHA-256 of the other answers' file>.jsonl
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.evaluation.records import Judgement

DIGITS, LONGEST_SIDE = 8, 30  # of the other answers' digest; characters of a side's name
OTHER = re.compile(r"(?P<run>.+)-(?P<side>base|global|client-.+)-(?P<digest>[0-9a-f]{8})")
UNKNOWN = re.compile(r"(?P<run>.+)(?P<side>)-(?P<digest>[0-9a-f]{8})")  # a side that the suite does not name


@dataclass(frozen=True, kw_only=True)
class PairNames:
    """`side` of this folder against `other_side` of `other_run`, which are shortened and "" where not known."""

    side: str
    other_run: str
    other_side: str
    digest: str

    @property
    def other(self) -> str:
        return " ".join(filter(None, (self.other_run, self.other_side, f"({self.digest})")))


@dataclass(frozen=True, kw_only=True)
class JudgedPairs:
    """One judge's pairs of two sides. `here`: the side of this folder whose answers are the other ones; "" if none.

    `note` says why nobody knows whether the replies are to the present answers; "" where that was checked.
    """

    judge: str
    names: PairNames
    here: str
    judgements: tuple[Judgement, ...]
    note: str = ""


def pair_names(name: str, sides: Iterable[str]) -> PairNames | None:
    """What a file's name (without its ending) says; None where that is nothing, or fits several of `sides`."""
    fitting = [side for side in sides if name.startswith(_start(side))]
    longest = max((len(_start(side)) for side in fitting), default=0)
    own = [side for side in fitting if len(_start(side)) == longest]
    found = OTHER.fullmatch(name[longest:]) or UNKNOWN.fullmatch(name[longest:])
    if len(own) != 1 or found is None:
        return None
    return PairNames(side=own[0], other_run=found["run"], other_side=found["side"], digest=found["digest"])


def _start(side: str) -> str:
    return f"{side[:LONGEST_SIDE]}-vs-"


def digest(answers: Path) -> str:
    """Of a file of answers, as in the names of pairs."""
    return hashlib.sha256(answers.read_bytes()).hexdigest()[:DIGITS]
