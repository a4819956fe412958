"""The closed benchmarks of a folder, checked: each line can be scored, and every side was asked the same items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.evaluation.answering.plan import PLAN, PlanHead, read_head
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, Form, read_samples, samples_file
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.records import NOT_OURS
from fedllm_bench.evaluation.scoring.answered import BASE, names_in, no_link, ordered_sides

LARGEST = 2**53  # whole numbers below it are exact as floats
Samples = Mapping[str, ClosedSample]  # by item_id


@dataclass(frozen=True, kw_only=True)
class ClosedMaterial:
    """What a folder holds of one closed benchmark: samples by side and item.

    `unpaired`: sides of which an item was asked with other words than the base was; nothing is said of their change.
    """

    name: str
    plan: PlanHead
    sides: Mapping[str, Samples]
    unpaired: frozenset[str] = frozenset()

    @cached_property
    def items(self) -> dict[str, ClosedSample]:
        """Every item that a side was asked, as the first such side was, in the order of tasks and numbers."""
        found: dict[str, ClosedSample] = {}
        for samples in self.sides.values():
            found = {**samples, **found}
        return {item: found[item] for item in sorted(found, key=lambda item: _place(found[item]))}

    @property
    def form(self) -> Form:
        return next(iter(self.items.values())).form

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(sample.task for sample in self.items.values()))

    @property
    def notes(self) -> list[str]:
        return [
            f"{self.name}: {side} was asked with other prompts, or for other answers, than {BASE}: they are not paired"
            for side in sorted(self.unpaired)
        ]


def read_closed(folder: Path) -> dict[str, ClosedMaterial]:
    """Closed benchmark -> its samples, of those that a side was asked; {} where there are none.

    Raises a :class:`UserError` that names file and line for what cannot be scored.
    """
    names = names_in(folder / "closed")
    for name in names:
        if name in OPEN_METRICS or name in {metric.benchmark for metric in OPEN_METRICS.values()}:
            raise UserError(f"{folder}/closed/{name}: {name} is no closed benchmark; remove that folder")
    found = {name: _material(folder, name) for name in names}
    return {name: material for name, material in found.items() if material.sides}


def asked_hash(samples: Iterable[ClosedSample]) -> str:
    """Equal for equal items with equal prompts and right answers, in whatever order they were asked."""
    return files.sha256_json(sorted([one.item_id, *_asked(one)] for one in samples))


def _material(folder: Path, name: str) -> ClosedMaterial:
    place = folder / "closed" / name
    paths = {side: samples_file(folder, name, side) for side in ordered_sides(names_in(place, ".jsonl"))}
    sides = {side: samples for side, path in paths.items() if (samples := _samples(path))}
    base = sides.get(BASE, {})
    unpaired = frozenset(side for side, samples in sides.items() if _is_other(samples, base))
    return ClosedMaterial(name=name, plan=read_head(no_link(place / PLAN)), sides=sides, unpaired=unpaired)


def _place(sample: ClosedSample) -> tuple[str, int]:
    return sample.task, sample.doc_id


def _asked(sample: ClosedSample) -> tuple[str, str, str]:
    return sample.doc_hash, sample.prompt_hash, sample.target


def _is_other(samples: Samples, base: Samples) -> bool:
    """Whether an item that both were asked is another one, was asked with other words, or has another right answer."""
    return any(item in base and _asked(base[item]) != _asked(sample) for item, sample in samples.items())


def _samples(path: Path) -> dict[str, ClosedSample]:
    """By item. Raises a :class:`UserError` for an item twice, and for a line that cannot be scored."""
    found: dict[str, ClosedSample] = {}
    for number, sample in enumerate(read_samples(no_link(path)), start=1):
        wrong = next(_wrong(sample), "two lines are of this item" if sample.item_id in found else "")
        if wrong:
            raise UserError(f"{path}, line {number}, item {sample.item_id[:60]!a}: {wrong}; {NOT_OURS}")
        found[sample.item_id] = sample
    return found


def _wrong(sample: ClosedSample) -> Iterator[str]:
    """What keeps a line from being scored."""
    if not files.SAFE_NAME.fullmatch(sample.task) or not 0 <= sample.doc_id < LARGEST:
        yield "it has no name of a task, or a number that no item has"
    if any(length >= LARGEST for length in sample.lengths):
        yield "a length that no text has"
    if not sample.reason.isprintable():
        yield "control characters in its reason"
    if not sample.reason:
        yield from _FORMS[sample.form](sample)


def _wrong_choice(sample: ClosedSample) -> Iterator[str]:
    num_choices = len(sample.log_likelihoods)
    if not num_choices or len(sample.lengths) != num_choices:
        yield f"{counted(num_choices, 'log-likelihood')} and {counted(len(sample.lengths), 'length')} of choices"
    yield from _unlikely(sample)


def _wrong_rolling(sample: ClosedSample) -> Iterator[str]:
    if len(sample.log_likelihoods) != 1 or len(sample.lengths) != 2:
        yield "running text has one log-likelihood, and its words and bytes"
    yield from _unlikely(sample)


def _unlikely(sample: ClosedSample) -> Iterator[str]:
    if max(sample.log_likelihoods, default=0.0) > 1e-3:  # rounding
        yield f"a log-likelihood of {max(sample.log_likelihoods)}, which is above 0"
    if min(sample.lengths, default=0) < 0:
        yield "a negative length"


def _wrong_text(sample: ClosedSample) -> Iterator[str]:
    if not sample.parsed:
        yield "no parsed answer"


def _wrong_code(sample: ClosedSample) -> Iterator[str]:
    if not sample.passed or len(sample.passed) != len(sample.texts):
        yield f"{counted(len(sample.texts), 'program')}, and {counted(len(sample.passed), 'verdict')} of tests"


_FORMS = {"choice": _wrong_choice, "text": _wrong_text, "rolling": _wrong_rolling, "code": _wrong_code}
