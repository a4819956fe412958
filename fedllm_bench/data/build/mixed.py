"""A split mixed of several data sets: each client has rows of one of them, or each part has clients of its own.

A part goes through its own pipeline, with the filters of its own recipe; which of its rows stay is chosen by hash.
Duplicates, evaluation prompts, held-out rows and leaks are those of the whole, over all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.whole_numbers import whole_number
from fedllm_bench.data.build.bad_rows import BadRow, Handle, stop
from fedllm_bench.data.build.build import Builder, BuildInfo, RawPart, build_split
from fedllm_bench.data.build.decontaminate import EvaluationPrompts
from fedllm_bench.data.build.hub import HubSource, as_declared, at_commit, declared_source, raw_source
from fedllm_bench.data.build.pipelines import STATED, load_pipeline
from fedllm_bench.data.build.raw_files import raw_files
from fedllm_bench.data.build.readers import Raw
from fedllm_bench.data.build.recipe import Declaration, Filter, Flag, Recipe, filters
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.lengths import TokenCounter
from fedllm_bench.data.manifest import Split

DATASET = "mixed"
FORM = "--part DATASET[:ROWS][=FILE|FOLDER|hub:ORG/NAME[@COMMIT]]"
GENERAL = ("user_id", "empty", "length", "column", "released")  # filters that a part shares with the whole, or leaves


class MixedPart(NamedTuple):
    """A data set, and where its rows are."""

    declaration: Declaration
    builder: Builder
    raw: Raw

    @property
    def name(self) -> str:
        return self.declaration.dataset

    @property
    def recipe(self) -> Recipe:
        """Its own, with clients that nobody asks of it: the whole makes the clients."""
        return replace(self.declaration.recipe.normal(), partition="iid:1", unseen_clients=0)

    @property
    def steps(self) -> dict[str, Filter]:
        """The filters that are its own, by the name of the flag that they raise in the whole."""
        own = filters(self.recipe, self.declaration)
        kept = (step for step in own if step.step not in GENERAL)
        return {f"{self.name}:{s.step}": s for s in kept if s.step != "languages" or self.recipe.languages}


@dataclass(frozen=True)
class MixedBuilder:
    """The `build` of a mixed split: :class:`Builder`, for several."""

    declaration: Declaration
    parts: tuple[MixedPart, ...]

    def __call__(
        self,
        raw: None,
        out: Path,
        recipe: Recipe | None = None,
        name: str | None = None,
        *,
        evaluation: EvaluationPrompts | None = None,
        counter: TokenCounter | None = None,
    ) -> Split:
        parts = tuple(_placed(part) for part in self.parts)
        stated = [RawPart(part.builder.stated(part.raw), part.raw) for part in parts]
        info = BuildInfo(
            declaration=replace(self.declaration, licence=_licence([part.declaration for part in stated])),
            raw=raw,
            name=name or DATASET,
            parts=stated,
            evaluation=evaluation,
            counter=counter,
        )
        return build_split(lambda bad: samples(parts, bad), recipe or self.declaration.recipe, out, info)

    def check(self, raw: None, recipe: Recipe) -> None:
        """Raise a :class:`UserError` for a file whose columns are not those of its part."""
        for part in self.parts:
            if isinstance(part.raw, Path):
                raw_files(part.raw)
            part.builder.check(part.raw, part.recipe)


class MixedPipeline(NamedTuple):
    """What a pipeline module offers."""

    DECLARATION: Declaration
    build: MixedBuilder


def mixed_pipeline(texts: Sequence[str], clients_per_part: int = 1) -> MixedPipeline:
    """The pipeline of parts, each stated in one text of :data:`FORM`.

    Raises a :class:`UserError` for no parts, for a part that is no data set or named twice, and for parts of two tasks.
    """
    if not texts:
        raise UserError(f"data build {DATASET} needs its parts: {FORM}, once for each")
    if clients_per_part < 1:
        raise UserError(f"--clients-per-part {clients_per_part}: give 1 or more")
    asked = [_asked(text) for text in texts]
    parts = tuple(_part(name, place) for name, _, place in asked)
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--part {twice[0]} is there twice; give each data set once")
    tasks = {part.declaration.task: part.name for part in parts}
    if len(tasks) > 1:
        raise UserError(f"the parts {' and '.join(tasks.values())} are of two tasks ({', '.join(tasks)}); mix one")
    recipe = Recipe(
        partition=f"parts:{clients_per_part}",
        parts=tuple(f"{name}:{rows}" if rows else name for name, (_, rows, _) in zip(names, asked, strict=True)),
    )
    declared = Declaration(
        dataset=DATASET,
        upstream=" + ".join(dict.fromkeys(part.declaration.upstream for part in parts)),
        licence=_licence([part.declaration for part in parts]),
        version="1",
        task=parts[0].declaration.task,
        checks=tuple(Flag(name, f"{part.name}: {step.reason}") for part in parts for name, step in part.steps.items()),
        has_users=False,
        recipe=recipe,
    )
    return MixedPipeline(declared, MixedBuilder(declared, parts))


def _asked(text: str) -> tuple[str, int, str]:
    """The name, the most rows (0 for all) and the place of a part."""
    head, is_placed, place = text.partition("=")
    name, is_counted, rows = head.partition(":")
    number = whole_number(rows)
    if not name.strip() or (is_counted and not number) or (is_placed and not place.strip()):
        raise UserError(f"--part {text[:200]!a} is not of the form {FORM}, such as --part alpaca_gpt4:5000")
    return name, number or 0, place


def _part(name: str, place: str) -> MixedPart:
    if name in STATED or name == DATASET:
        raise UserError(f"--part {name}: a part is a data set that states its own columns, such as alpaca_gpt4")
    pipeline = load_pipeline(name)
    declared = pipeline.DECLARATION
    raw = raw_source(place) if place else declared_source(declared)
    return MixedPart(declared, pipeline.build, raw)


def _placed(part: MixedPart) -> MixedPart:
    """With the commit of a part on the hub."""
    if isinstance(part.raw, HubSource):
        return part._replace(raw=at_commit(as_declared(part.raw, part.declaration)))
    return part


def _licence(declared: Iterable[Declaration]) -> str:
    return "; ".join(f"{part.dataset}: {part.licence}" for part in declared)


def samples(parts: Sequence[MixedPart], bad: Handle = stop) -> Iterator[Sample]:
    """The rows of all parts; the client is the part, and a row that a filter of the part would remove is flagged."""
    for part in parts:
        steps = part.steps
        for sample in part.builder.samples(part.raw, part.recipe, _named(part.name, bad)):
            yield sample._replace(
                client=part.name,
                file=f"{part.name}/{sample.file}",
                flags=frozenset(_failed(sample, steps)),
                unsaid=frozenset(),
            )


def _failed(sample: Sample, steps: Mapping[str, Filter]) -> Iterator[str]:
    """The flag of the first filter that stops the row."""
    for name, step in steps.items():
        if not step.passes(sample):
            yield name
            return


def _named(part: str, bad: Handle) -> Callable[[str, str, BadRow], None]:
    return lambda path, name, error: bad(path, f"{part}/{name}", error)
