"""The rows of the three parts of a split, from the samples of the chosen users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from fedllm_bench.data.build.choice import MIN_UNSEEN_ROWS
from fedllm_bench.data.build.decontaminate import NOT_REMOVED, EvaluationPrompts
from fedllm_bench.data.build.funnel import Left
from fedllm_bench.data.build.near import REASON, count, near_duplicates, without
from fedllm_bench.data.build.partition import regroup
from fedllm_bench.data.build.recipe import Recipe
from fedllm_bench.data.build.remarks import count_alike
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.build.sampling import (
    cap,
    hold_out,
    row_id,
    shared_prompts,
    unique,
    without_leaks,
    without_prompts,
)
from fedllm_bench.data.funnel_words import NO_LIMIT
from fedllm_bench.data.manifest import Part
from fedllm_bench.data.rows import PreferenceRow, Row, SftRow, Turn

LEAKAGE = "held-out rows with (client, prompt) or (prompt, completion) of a training row"
IN_ANY_FORM = ", whatever their case, punctuation, width and spacing"
Groups = Mapping[str, Sequence[Sample]]  # client -> its samples


class Parts(NamedTuple):
    rows: dict[Part, list[Row]]
    left: list[Left]  # what each step left of the clients' rows
    notes: list[str]


class Cleaned(NamedTuple):
    groups: dict[str, Sequence[Sample]]
    left: list[Left]
    notes: list[str]


class AboutRows(NamedTuple):
    """What is known of the rows beside themselves: whether users wrote them, and how many have a place."""

    has_users: bool = True
    places: int = 0


def make_parts(
    groups: Groups,
    kept: Sequence[str],
    pool: Sequence[str],
    recipe: Recipe,
    evaluation: EvaluationPrompts | None,
    about: AboutRows,
) -> Parts:
    """Clean the samples of clients and candidates, then share them out into train, heldout and unseen.

    `max_samples`, `min_samples` and `max_clients` are of users, and where there are none of the clients that the
    partition makes.
    """
    cleaned = clean(groups, kept, recipe if about.has_users else replace(recipe, max_samples=None), evaluation)
    clients: Groups = regroup({client: cleaned.groups[client] for client in kept}, recipe, about.places)
    left = list(cleaned.left)
    if recipe.partition != "user":
        how = f"the same rows by {recipe.partition} instead of by user"
        left.append(_left("partition", clients, how if about.has_users else f"rows shared out by {recipe.partition}"))
    notes = [*cleaned.notes, *_alike(clients, recipe)]
    if not about.has_users:
        clients = _bounded(clients, recipe, left)
    shared = shared_prompts(chain.from_iterable(clients.values()), recipe)
    sides = {client: hold_out(samples, recipe, shared) for client, samples in sorted(clients.items())}
    sides = {client: side for client, side in sides.items() if side[0]}
    train = [sample for side in sides.values() for sample in side[0]]
    heldout = _without_leaks(train, [sample for side in sides.values() for sample in side[1]], recipe)
    unseen = _choose_unseen(train, {client: cleaned.groups[client] for client in pool}, recipe)
    trained = {client: clients[client] for client in sides}
    by_whom = "" if recipe.prompt_disjoint else " upstream"
    left.append(_left("no_training", trained, f"clients whose rows are all held out{by_whom}"))
    reason = LEAKAGE + (IN_ANY_FORM if recipe.leakage == "normal" else "")
    left.append(Left("leakage", len(train) + len(heldout), len(sides), reason))
    rows: dict[Part, list[Row]] = {
        "train": [to_row(sample, "train") for sample in train],
        "heldout": [to_row(sample, "heldout") for sample in heldout],
        "unseen": [to_row(sample, "heldout") for sample in unseen],
    }
    return Parts(rows, left, notes)


def _bounded(clients: Groups, recipe: Recipe, left: list[Left]) -> Groups:
    """The clients that the recipe's bounds leave; `left` gains a step for each bound that there is."""
    if recipe.min_samples > 1:
        clients = {client: rows for client, rows in clients.items() if len(rows) >= recipe.min_samples}
        left.append(_left("min_samples", clients, f"clients with fewer than {recipe.min_samples} rows"))
    if recipe.max_clients:
        ranked = sorted(clients, key=lambda client: (-len(clients[client]), client))[: recipe.max_clients]
        clients = {client: clients[client] for client in ranked}
        left.append(_left("max_clients", clients, f"clients who are not among the {recipe.max_clients} with most rows"))
    if recipe.max_samples:
        clients = {client: cap(rows, recipe.max_samples, recipe.seed) for client, rows in clients.items()}
        left.append(_left("max_samples", clients, f"more than {recipe.max_samples} rows of one client"))
    return clients


def _alike(clients: Iterable[str], recipe: Recipe) -> Iterator[str]:
    """A note of values of a column that people would take for one."""
    alike = count_alike(clients) if recipe.column and recipe.partition.startswith("column:") else 0
    if alike:
        yield (
            f"column {recipe.column!r}: {alike} values differ from another one only in case, surrounding spaces or "
            "Unicode form; each is a client of its own"
        )


def clean(groups: Groups, kept: Sequence[str], recipe: Recipe, evaluation: EvaluationPrompts | None) -> Cleaned:
    """Without duplicates, evaluation prompts and rows beyond `max_samples`; the candidates too, uncounted."""
    left, notes = [], []
    now = {client: unique(rows) if recipe.deduplicate else rows for client, rows in groups.items()}
    left.append(_left("duplicates", _of(now, kept), "same prompt and completion as another row of the client"))
    if recipe.near_duplicates != "off":
        found = near_duplicates(now, kept)
        if recipe.near_duplicates == "drop":
            now = {client: without(rows, found) for client, rows in now.items()}
            left.append(_left("near_duplicates", _of(now, kept), REASON))
        else:
            notes.append(f"near_duplicates: {count(_of(now, kept), found)} rows, kept: {REASON}")
    if evaluation and evaluation.prompts:
        now = {client: evaluation.without(rows) for client, rows in now.items()}
        left.append(_left("decontaminate", _of(now, kept), evaluation.reason))
    elif evaluation:
        notes.append(NOT_REMOVED)
    now = {client: cap(rows, recipe.max_samples, recipe.seed) for client, rows in now.items()}
    left.append(_left("max_samples", _of(now, kept), f"more than {recipe.max_samples or NO_LIMIT} rows of one client"))
    if recipe.parts:
        notes += _fewer(_of(now, kept), recipe)
        now = {part: cap(rows, recipe.most_of(part), recipe.seed) for part, rows in now.items()}
        left.append(_left("parts", _of(now, kept), f"more rows than asked of {', '.join(recipe.parts)}"))
    if recipe.max_rows is not None:
        now |= _capped(_of(now, kept), recipe.max_rows, recipe.seed)
        left.append(_left("max_rows", _of(now, kept), f"more than {recipe.max_rows} rows of all clients"))
    return Cleaned(dict(now), left, notes)


def _fewer(groups: Groups, recipe: Recipe) -> Iterator[str]:
    """Notes of parts that have not as many rows as were asked of them."""
    for part, rows in groups.items():
        if len(rows) < (most := recipe.most_of(part) or 0):
            yield f"parts: {part} has {len(rows)} rows left, fewer than the {most} asked of it"


def _capped(groups: Groups, most: int, seed: int) -> dict[str, Sequence[Sample]]:
    """At most `most` samples of all clients together."""
    stay = set(map(row_id, cap([*chain.from_iterable(groups.values())], most, seed)))
    return {client: [sample for sample in rows if row_id(sample) in stay] for client, rows in groups.items()}


def _of(groups: Groups, kept: Sequence[str]) -> dict[str, Sequence[Sample]]:
    return {client: groups[client] for client in kept}


def _without_leaks(train: Sequence[Sample], others: Iterable[Sample], recipe: Recipe) -> list[Sample]:
    if recipe.prompt_disjoint:
        others = without_prompts(train, others, recipe)
    return without_leaks(train, others, recipe)


def _choose_unseen(train: Sequence[Sample], candidates: Groups, recipe: Recipe) -> list[Sample]:
    """All rows, without leaks, of the first candidates who have enough of them left."""
    if not recipe.unseen_clients:
        return []
    clean: dict[str, list[Sample]] = {client: [] for client in candidates}
    for sample in _without_leaks(train, chain.from_iterable(candidates.values()), recipe):
        clean[sample.client].append(sample)
    enough = [rows for rows in clean.values() if len(rows) >= MIN_UNSEEN_ROWS]
    return [sample for rows in enough[: recipe.unseen_clients] for sample in rows]


def to_row(sample: Sample, split: str) -> Row:
    """A sample with one answer as a conversation, one with two as a preference."""
    common = {"client_id": sample.client, "split": split, "row_id": row_id(sample)}
    common |= {"language": sample.language, "source": sample.source}
    turns: tuple[Turn, ...] = tuple({"role": role, "content": content} for role, content in sample.turns)
    if len(sample.answers) == 1:
        return SftRow(**common, messages=(*turns, {"role": "assistant", "content": sample.answers[0]}))
    return PreferenceRow(**common, prompt=turns, chosen=sample.answers[0], rejected=sample.answers[1])


def _left(step: str, groups: Groups, reason: str) -> Left:
    return Left(step, sum(map(len, groups.values())), sum(map(bool, groups.values())), reason)
