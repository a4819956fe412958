"""The generic part of a pipeline: samples of many users -> clients with training and held-out rows.

Two passes: the first only counts rows per user, so that the second keeps rows of the chosen users alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fedllm_bench.common.files import sha256_file
from fedllm_bench.common.progress import track
from fedllm_bench.data.build.bad_rows import BadRow, Handle, Skipped, stop
from fedllm_bench.data.build.choice import choose_clients
from fedllm_bench.data.build.columns import Columns
from fedllm_bench.data.build.decontaminate import EvaluationPrompts
from fedllm_bench.data.build.funnel import FunnelTally, Left, funnel, left_by_filters, refuse_empty
from fedllm_bench.data.build.hub import HubSource, as_declared, at_commit
from fedllm_bench.data.build.labels import labeller
from fedllm_bench.data.build.noted import Noted
from fedllm_bench.data.build.parts import AboutRows, Groups, make_parts
from fedllm_bench.data.build.raw_files import passed_over, raw_files, relative_name
from fedllm_bench.data.build.readers import Raw, RawRecord, read_file, read_rows
from fedllm_bench.data.build.recipe import Declaration, Filter, Recipe, check_per, filters
from fedllm_bench.data.build.remarks import remarks
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.lengths import TokenCounter
from fedllm_bench.data.manifest import (
    Split,
    SplitInfo,
    Upstream,
    UpstreamFile,
    UpstreamPart,
    check_names,
    check_same,
    check_target,
    write_split,
)

__all__ = ["BuildInfo", "Builder", "Declaration", "Recipe", "Sample", "build_split"]


class RawPart(NamedTuple):
    """One of the data sets that a split is mixed of; the names of its files begin with its own."""

    declaration: Declaration
    raw: Raw


@dataclass(frozen=True, kw_only=True)
class BuildInfo:
    """What stands in the manifest beside the rows, and the extra files that go along."""

    declaration: Declaration
    raw: Raw | None  # None where the rows are of `parts`
    name: str
    revision: str | None = None
    parts: Sequence[RawPart] = ()
    extra_files: Mapping[str, bytes] | None = None
    evaluation: EvaluationPrompts | None = None
    counter: TokenCounter | None = None


@dataclass(frozen=True)
class Builder:
    """The `build` of a pipeline: raw rows in upstream columns (files or a dataset of the hub) -> a split folder.

    Another `declaration` states where the rows come from when that is not the upstream (the mini world, for one).
    Rows in which a prompt of `evaluation` stands are removed. None is for rows that were generated: the manifest
    then says nothing of evaluation sets. `counter` counts the tokens for the data card. `is_own`: the user made the
    declaration for these very rows. `once`: a column of text; a row that repeats an earlier row's is flagged
    `REPEATED` (labels.py), which must be one of the declaration's checks.
    """

    declaration: Declaration
    columns: Columns
    sample: Callable[[RawRecord], Sample]
    is_own: bool = False
    once: str = ""

    def __call__(
        self,
        raw: Raw,
        out: Path,
        recipe: Recipe | None = None,
        name: str | None = None,
        *,
        declaration: Declaration | None = None,
        extra_files: Mapping[str, bytes] | None = None,
        evaluation: EvaluationPrompts | None = None,
        counter: TokenCounter | None = None,
    ) -> Split:
        if isinstance(raw, HubSource):
            raw = at_commit(as_declared(raw, self.declaration))
        declared = declaration or self.stated(raw)
        name = _name(declared, name)
        info = BuildInfo(
            declaration=declared,
            raw=raw,
            name=name,
            extra_files=extra_files,
            evaluation=evaluation,
            counter=counter,
        )
        recipe = recipe or declared.recipe
        return build_split(lambda bad: self.samples(raw, recipe, bad), recipe, out, info)

    def samples(self, raw: Raw, recipe: Recipe, bad: Handle = stop) -> Iterator[Sample]:
        """The raw rows as samples; rows that cannot be read go to `bad`, which may raise."""
        columns = self._read(recipe)
        subset = subset_folder(raw, self.declaration)
        shown = labeller(recipe, self.declaration, self.columns.split, self.once, subset)
        for record in read_rows(raw, columns.required, columns.optional, bad, columns.split):
            try:
                sample = shown(record, self.sample(record))
            except BadRow as error:
                bad(_path(raw, record.file), record.file, error)
            else:
                yield sample

    def check(self, raw: Raw, recipe: Recipe) -> None:
        """Raise a :class:`UserError` for a file whose columns are not the upstream's; only the first one is opened.

        Rows of the hub are left: to look at one is to fetch it.
        """
        if isinstance(raw, Path):
            first = raw_files(raw)[0]
            columns = self._read(recipe).with_split()
            next(read_file(first, relative_name(first, raw), columns, bad=lambda *_: None), None)

    def _read(self, recipe: Recipe) -> Columns:
        """The columns that this recipe needs."""
        flags = (name for name in recipe.drop_flagged if name in self.columns.flags)
        return self.columns.with_flags(flags).with_label(recipe.column)

    def stated(self, raw: Raw) -> Declaration:
        """A file in the upstream's columns, or another dataset, need not hold the upstream's rows."""
        declared = self.declaration
        if self.is_own:
            return declared
        is_upstream = isinstance(raw, HubSource) and raw.name == declared.upstream
        upstream = raw.id if isinstance(raw, HubSource) else declared.upstream
        licence = f"{declared.licence} for rows of {declared.upstream}; other raw rows keep their own licence"
        return replace(declared, upstream=upstream, licence=declared.licence if is_upstream else licence)


def check_build(raw: Raw | None, out: Path, recipe: Recipe, declared: Declaration, name: str | None) -> None:
    """Raise a :class:`UserError` for what is wrong with a build before anything is fetched or read."""
    check_target(out)
    check_names(name or declared.dataset)
    filters(recipe.normal(), declared)
    check_same(out, _name(declared, name), _record(recipe, declared, None), but=("decontaminate",))
    if isinstance(raw, Path):
        raw_files(raw)


def check_evaluation(
    out: Path, recipe: Recipe, declared: Declaration, name: str | None, evaluation: EvaluationPrompts
) -> None:
    """Raise a :class:`UserError` where `out` holds a split that only its evaluation prompts tell apart."""
    check_same(out, _name(declared, name), _record(recipe, declared, evaluation))


def build_split(read: Callable[[Handle], Iterable[Sample]], recipe: Recipe, out: Path, info: BuildInfo) -> Split:
    """Write the split that `recipe` makes of the samples, which `read` gives twice, in any order."""
    check_target(out)  # not after minutes of reading
    recipe = recipe.normal()
    steps = filters(recipe, info.declaration)
    tally = count_rows(read, steps, recipe)
    usable = {client: rows for client, rows in tally.standing.items() if rows > 0}
    has_users = info.declaration.has_users
    by_user = recipe if has_users else replace(recipe, min_samples=1, max_clients=None)
    kept, pool, chosen, chosen_notes = choose_clients(usable, tally.values, by_user)
    left = [*left_by_filters(tally, steps), *chosen]
    refuse_empty(left, usable, tally.noted.lines())
    samples = read(Skipped() if tally.skipped else stop)  # counted in the first pass
    groups = collect(samples, steps, {*kept, *pool}, tally.samples)
    about = AboutRows(has_users, tally.places)
    parts = make_parts(groups, kept, pool, recipe, info.evaluation, about)
    left += parts.left
    refuse_empty(left, usable, tally.noted.lines())
    aside = [name for raw in (info.raw, *(part.raw for part in info.parts)) if isinstance(raw, Path)
             for name in passed_over(raw)]  # fmt: skip
    notes = [*remarks(tally, usable, recipe, aside), *chosen_notes, *parts.notes]
    split_info = _split_info(info, recipe, tally, left, notes)
    return write_split(out, split_info, parts.rows, extra_files=info.extra_files, counter=info.counter)


def subset_folder(raw: Raw, declared: Declaration) -> str:
    """The name of the declared subset, where the raw folder has a folder of that name as the hub's repository has."""
    is_there = isinstance(raw, Path) and bool(declared.subset) and (raw / declared.subset).is_dir()
    return declared.subset if is_there else ""


def _path(raw: Raw, name: str) -> str:
    """Where the file, or the split of the hub, that records call `name` is found."""
    if isinstance(raw, HubSource):
        return f"{raw}, {name}"
    return str(raw / name if raw.is_dir() else raw)


def count_rows(read: Callable[[Handle], Iterable[Sample]], steps: Sequence[Filter], recipe: Recipe) -> FunnelTally:
    """The first pass. Memory: one number per user, or one for each of their languages, no rows.

    Too many bad rows are a :class:`UserError`.
    """
    skipped = Skipped() if recipe.bad_rows == "skip" else None
    files: Counter[str] = Counter()
    unsaid: Counter[str] = Counter()
    noted = Noted()
    stopped = [0] * len(steps)
    standing: dict[str, int] = {}
    values: defaultdict[str, Counter[str]] = defaultdict(Counter)
    places = 0
    column = check_per(recipe.per).column if recipe.per else ""
    for sample in read(skipped or stop):
        files[sample.file] += 1
        unsaid.update(sample.unsaid)
        noted.add(sample.notes)
        places += sample.place is not None
        passed = _filters_passed(sample, steps)
        if passed == len(steps):
            standing[sample.client] = max(standing.get(sample.client, 0), 0) + 1
            if column:
                values[sample.client][getattr(sample, column)] += 1
            continue
        stopped[passed] += 1
        if passed:  # a row that fails the first filter has no user
            ahead = passed - len(steps)
            standing[sample.client] = max(standing.get(sample.client, ahead), ahead)
    if skipped:
        files += skipped.by_file
        skipped.refuse_many(files.total())
    return FunnelTally(rows_by_file=files, stopped=tuple(stopped), standing=standing, unsaid=unsaid, skipped=skipped,
                       noted=noted, values=values, places=places)  # fmt: skip


def _filters_passed(sample: Sample, steps: Sequence[Filter]) -> int:
    return next((index for index, step in enumerate(steps) if not step.passes(sample)), len(steps))


def collect(samples: Iterable[Sample], steps: Sequence[Filter], wanted: set[str], total: int) -> Groups:
    """The second pass: the usable samples of the wanted users."""
    groups: dict[str, list[Sample]] = {client: [] for client in wanted}
    for sample in track(samples, "collect rows", total):
        if sample.client in wanted and _filters_passed(sample, steps) == len(steps):
            groups[sample.client].append(sample)
    return dict(groups)


def _split_info(
    info: BuildInfo, recipe: Recipe, tally: FunnelTally, left: Sequence[Left], notes: Sequence[str]
) -> SplitInfo:
    declared = info.declaration
    return SplitInfo(
        name=info.name,
        dataset=declared.dataset,
        task=declared.task,
        version=declared.version,
        upstream=_upstream(declared, info.raw, tally, info.revision),
        parts=tuple(_upstream_part(part, tally) for part in info.parts),
        licence=declared.licence,
        recipe=_record(recipe, declared, info.evaluation),
        funnel=funnel(left),
        notes=tuple(notes),
    )


def _record(recipe: Recipe, declared: Declaration, evaluation: EvaluationPrompts | None) -> dict[str, Any]:
    """The recipe as the manifest has it, with what it does not say itself."""
    decontaminate = {"decontaminate": evaluation.record} if evaluation else {}
    columns = {"columns": dict(declared.columns)} if declared.columns else {}
    return recipe.normal().record() | decontaminate | columns


def _name(declared: Declaration, given: str | None) -> str:
    return given or f"{declared.dataset}-custom"


def _upstream_part(part: RawPart, tally: FunnelTally) -> UpstreamPart:
    declared = part.declaration
    upstream = _upstream(declared, part.raw, tally, prefix=f"{declared.dataset}/")
    return UpstreamPart(dataset=declared.dataset, version=declared.version, licence=declared.licence, upstream=upstream)


def _upstream(
    declared: Declaration, raw: Raw | None, tally: FunnelTally, revision: str | None = None, prefix: str = ""
) -> Upstream:
    """No files for the hub, where the revision names every byte."""
    if not isinstance(raw, Path):
        return Upstream(id=declared.upstream, revision=raw.revision if raw else revision, files=())
    named = ((prefix + relative_name(file, raw), file) for file in raw_files(raw))
    files = (UpstreamFile(name=name, sha256=sha256_file(file), rows=tally.rows_by_file[name]) for name, file in named)
    return Upstream(id=declared.upstream, revision=revision, files=tuple(files))
