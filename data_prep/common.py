"""The generic part of a pipeline: samples of many users -> clients with training and held-out rows.

Two passes: the first only counts rows per user, so that the second keeps rows of the chosen users alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fedllm_bench.data.manifest import (
    FunnelStep,
    Part,
    Split,
    SplitInfo,
    Upstream,
    UpstreamFile,
    check_target,
    write_split,
)
from fedllm_bench.data.rows import SftRow
from fedllm_bench.errors import UserError
from fedllm_bench.files import sha256_file
from fedllm_bench.progress import track

from .readers import raw_files, relative_name
from .recipe import Filter, Recipe, Sample, filters
from .sampling import cap, hold_out, row_id, unique, without_leaks

__all__ = ["BuildInfo", "Declaration", "Recipe", "Sample", "build_split"]

MIN_UNSEEN_ROWS = 5  # fewer say nothing about a user
NO_LIMIT = "(no limit)"
LEAKAGE = "held-out rows with (client, prompt) or (prompt, completion) of a training row"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a pipeline says of its upstream."""

    dataset: str
    upstream: str
    licence: str
    version: str  # of the pipeline: another one may give another split from the same rows and recipe
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class BuildInfo:
    """What stands in the manifest beside the rows, and the extra files that go along."""

    declaration: Declaration
    raw: Path
    name: str
    revision: str | None = None
    extra_files: Mapping[str, bytes] | None = None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Rows by file, rows stopped by each filter, and how far the best row of each user came.

    `standing`: the number of rows that passed every filter, or minus the number of filters still ahead.
    """

    rows_by_file: Counter[str]
    stopped: tuple[int, ...]
    standing: dict[str, int]


class Left(NamedTuple):
    """What is left after a step."""

    step: str
    rows: int
    clients: int
    reason: str


Groups = dict[str, Sequence[Sample]]  # client -> its samples


def build_split(read: Callable[[], Iterable[Sample]], recipe: Recipe, out: Path, info: BuildInfo) -> Split:
    """Write the split that `recipe` makes of the samples, which `read` gives twice, in any order."""
    check_target(out)  # not after minutes of reading
    recipe = recipe.normal()
    steps = filters(recipe)
    tally = count_rows(read(), steps)
    usable = {client: rows for client, rows in tally.standing.items() if rows > 0}
    kept, pool = choose_clients(usable, recipe)
    left = [*_left_by_filters(tally, steps), *_left_by_choice(usable, kept, recipe)]
    _refuse_empty(left, usable)
    groups = collect(read(), steps, {*kept, *pool}, tally.rows_by_file.total())
    parts, left_by_rows = make_parts(groups, kept, pool, recipe)
    left += left_by_rows
    _refuse_empty(left, usable)
    return write_split(out, _split_info(info, recipe, tally, left), parts, extra_files=info.extra_files)


def count_rows(samples: Iterable[Sample], steps: Sequence[Filter]) -> Tally:
    """The first pass. Memory: one number per user, no rows."""
    files: Counter[str] = Counter()
    stopped = [0] * len(steps)
    standing: dict[str, int] = {}
    for sample in samples:
        files[sample.file] += 1
        passed = _filters_passed(sample, steps)
        if passed == len(steps):
            standing[sample.client] = max(standing.get(sample.client, 0), 0) + 1
            continue
        stopped[passed] += 1
        if passed:  # a row that fails the first filter has no user
            ahead = passed - len(steps)
            standing[sample.client] = max(standing.get(sample.client, ahead), ahead)
    return Tally(rows_by_file=files, stopped=tuple(stopped), standing=standing)


def _filters_passed(sample: Sample, steps: Sequence[Filter]) -> int:
    return next((index for index, step in enumerate(steps) if not step.passes(sample)), len(steps))


def choose_clients(usable: Mapping[str, int], recipe: Recipe) -> tuple[list[str], list[str]]:
    """The clients, and the users among whom the unseen ones are found, both by rows (most first), then id.

    Twice as many candidates as unseen users, since some lose rows that clients have too.
    """
    ranked = sorted(usable, key=lambda client: (-usable[client], client))
    kept = [client for client in ranked if usable[client] >= recipe.min_samples][: recipe.max_clients]
    pool = [client for client in ranked[len(kept) :] if usable[client] >= MIN_UNSEEN_ROWS]
    return kept, pool[: 2 * recipe.unseen_clients]


def collect(samples: Iterable[Sample], steps: Sequence[Filter], wanted: set[str], total: int) -> Groups:
    """The second pass: the usable samples of the wanted users."""
    groups: dict[str, list[Sample]] = {client: [] for client in wanted}
    for sample in track(samples, "collect rows", total):
        if sample.client in wanted and _filters_passed(sample, steps) == len(steps):
            groups[sample.client].append(sample)
    return dict(groups)


def make_parts(
    groups: Groups, kept: Sequence[str], pool: Sequence[str], recipe: Recipe
) -> tuple[dict[Part, list[SftRow]], list[Left]]:
    """The rows of the three parts, and what each step left of the clients' rows."""
    distinct = {client: unique(rows) if recipe.deduplicate else rows for client, rows in groups.items()}
    capped = {client: cap(rows, recipe.max_samples, recipe.seed) for client, rows in distinct.items()}
    sides = {client: hold_out(capped[client], recipe) for client in kept}
    sides = {client: side for client, side in sides.items() if side[0]}
    train = [sample for side in sides.values() for sample in side[0]]
    heldout = without_leaks(train, (sample for side in sides.values() for sample in side[1]))
    unseen = _choose_unseen(train, {client: capped[client] for client in pool}, recipe.unseen_clients)
    left = [
        _left(
            "duplicates",
            {c: distinct[c] for c in kept},
            "same prompt and completion as another row of the client",
        ),
        _left(
            "max_samples",
            {c: capped[c] for c in kept},
            f"more than {recipe.max_samples or NO_LIMIT} rows of one client",
        ),
        _left("no_training", {c: capped[c] for c in sides}, "clients whose rows are all held out upstream"),
        Left("leakage", len(train) + len(heldout), len(sides), LEAKAGE),
    ]
    rows: dict[Part, list[SftRow]] = {
        "train": [_row(sample, "train") for sample in train],
        "heldout": [_row(sample, "heldout") for sample in heldout],
        "unseen": [_row(sample, "heldout") for sample in unseen],
    }
    return rows, left


def _choose_unseen(train: Iterable[Sample], candidates: Groups, most: int) -> list[Sample]:
    """All rows, without leaks, of the first `most` candidates who have enough of them left."""
    if not most:
        return []
    clean: dict[str, list[Sample]] = {client: [] for client in candidates}
    for sample in without_leaks(train, (sample for rows in candidates.values() for sample in rows)):
        clean[sample.client].append(sample)
    enough = [rows for rows in clean.values() if len(rows) >= MIN_UNSEEN_ROWS]
    return [sample for rows in enough[:most] for sample in rows]


def _row(sample: Sample, split: str) -> SftRow:
    return SftRow(
        client_id=sample.client,
        split=split,
        row_id=row_id(sample),
        language=sample.language,
        source=sample.source,
        messages=(
            {"role": "user", "content": sample.prompt},
            {"role": "assistant", "content": sample.completion},
        ),
    )


def _left(step: str, groups: Groups, reason: str) -> Left:
    return Left(step, sum(map(len, groups.values())), len(groups), reason)


def _left_by_filters(tally: Tally, steps: Sequence[Filter]) -> Iterator[Left]:
    rows = tally.rows_by_file.total()
    yield Left("raw", rows, len(tally.standing), "rows read")
    for index, step in enumerate(steps):
        rows -= tally.stopped[index]
        clients = sum(standing > index - len(steps) for standing in tally.standing.values())
        yield Left(step.step, rows, clients, step.reason)


def _left_by_choice(usable: Mapping[str, int], kept: Sequence[str], recipe: Recipe) -> Iterator[Left]:
    above = [rows for rows in usable.values() if rows >= recipe.min_samples]
    few = f"users with fewer than {recipe.min_samples} rows"
    yield Left("min_samples", sum(above), len(above), f"{few}; the unseen part is chosen from users not kept")
    most = f"users who are not among the {recipe.max_clients or NO_LIMIT} with most rows"
    yield Left("max_clients", sum(usable[client] for client in kept), len(kept), most)


def _refuse_empty(left: Sequence[Left], usable: Mapping[str, int]) -> None:
    if left[-1].clients:
        return
    removed = [
        f"{now.step} {before.rows - now.rows} ({now.reason})"
        for before, now in pairwise(left)
        if now.rows < before.rows
    ]
    largest = f"; the largest user has {max(usable.values())} usable rows" if usable else ""
    raise UserError(
        f"nothing is left of {left[0].rows} raw rows; removed by {', '.join(removed) or 'nothing'}{largest}"
    )


def _split_info(info: BuildInfo, recipe: Recipe, tally: Tally, left: Sequence[Left]) -> SplitInfo:
    declared = info.declaration
    start = FunnelStep(
        step=left[0].step,
        rows_removed=0,
        rows_left=left[0].rows,
        clients_left=left[0].clients,
        reason=left[0].reason,
    )
    return SplitInfo(
        name=info.name,
        dataset=declared.dataset,
        task="sft",
        version=declared.version,
        upstream=Upstream(id=declared.upstream, revision=info.revision, files=_upstream_files(info.raw, tally)),
        licence=declared.licence,
        recipe={**asdict(recipe), "languages": list(recipe.languages)},
        funnel=(start, *(_funnel_step(before, now) for before, now in pairwise(left))),
    )


def _funnel_step(before: Left, now: Left) -> FunnelStep:
    return FunnelStep(
        step=now.step,
        rows_removed=before.rows - now.rows,
        rows_left=now.rows,
        clients_left=now.clients,
        reason=now.reason,
    )


def _upstream_files(raw: Path, tally: Tally) -> tuple[UpstreamFile, ...]:
    named = ((relative_name(file, raw), file) for file in raw_files(raw))
    return tuple(
        UpstreamFile(name=name, sha256=sha256_file(file), rows=tally.rows_by_file[name]) for name, file in named
    )
