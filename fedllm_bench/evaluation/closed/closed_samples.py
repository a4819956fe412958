"""What a closed benchmark keeps: one line for each item, as a side answered it.

Scores are computed again from these lines, here and by a leaderboard.

    FOLDER/closed/<name>/plan.json       what was asked, and how
    FOLDER/closed/<name>/<side>.jsonl    a ClosedSample a line
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from fedllm_bench.evaluation.records import STRICT, checked_name, read_records, write_records

Form = Literal["choice", "text", "rolling", "code"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClosedSample:
    """One item of a task. The hashes are lm-eval's, so items of two runs can be paired.

    `form` "choice": `log_likelihoods` has one number for each choice, `lengths` the UTF-8 bytes of each choice, and
    `target` is the number of the right one. "text": `texts` are the generated answers, `parsed` what the task's filter
    made of them ("" where it found nothing), and `target` is the right answer. "code": `texts` are programs' bodies,
    and `passed` says of each whether it passed its tests. "rolling": `log_likelihoods` has one number, and `lengths`
    the words and bytes of the text. `values`: what lm-eval itself made of the item, by the name of its metric.
    """

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    target_hash: str
    form: Form
    target: str
    log_likelihoods: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    parsed: tuple[str, ...] = ()
    passed: tuple[bool, ...] = ()
    values: dict[str, float]
    reason: str = ""  # why there is no answer; "" where there is one

    @property
    def item_id(self) -> str:
        return f"{self.task}/{self.doc_id}"


def samples_file(folder: Path, name: str, side: str) -> Path:
    return folder / "closed" / checked_name(name) / f"{checked_name(side)}.jsonl"


def write_samples(path: Path, samples: Iterable[ClosedSample]) -> None:
    write_records(path, samples)


def read_samples(path: Path) -> list[ClosedSample]:
    """In order; [] where there is no file. Raises a :class:`UserError` that names the line for what is no sample."""
    return read_records(path, ClosedSample)
