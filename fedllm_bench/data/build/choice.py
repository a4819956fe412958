"""Which users become clients, and among whom the unseen ones are found: by numbers of rows, never by file order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fedllm_bench.common.text import counted
from fedllm_bench.data.build.funnel import Left
from fedllm_bench.data.build.recipe import Recipe, check_per
from fedllm_bench.data.funnel_words import NO_LIMIT

MIN_UNSEEN_ROWS = 5  # fewer say nothing about a user


class Chosen(NamedTuple):
    """The clients and the candidates for the unseen part, both in order; what each step left; lines for people."""

    kept: list[str]
    pool: list[str]
    left: list[Left]
    notes: list[str]


def choose_clients(usable: Mapping[str, int], values: Mapping[str, Counter[str]], recipe: Recipe) -> Chosen:
    """The clients, and the users among whom the unseen ones are found, both by rows (most first), then id.

    `usable`: user -> usable rows. `values`: user -> usable rows by the value of the column that `recipe.per` names;
    it is read only where the recipe has one. Twice as many candidates as unseen users, since some lose rows that
    clients have too.
    """
    ranked = sorted(usable, key=lambda client: (-usable[client], client))
    above = [client for client in ranked if usable[client] >= recipe.min_samples]
    few = f"users with fewer than {recipe.min_samples} rows"
    left = [_left("min_samples", above, usable, f"{few}; the unseen part is chosen from users not kept")]
    home = {client: _home(values[client]) for client in ranked} if recipe.per else {}
    chosen = above
    if recipe.per:
        column, most = check_per(recipe.per)
        chosen = [client for client, place in zip(above, _places(above, home), strict=True) if place < most]
        reason = f"users who are not among the {most} with most rows of their {column}"
        left.append(_left(f"per_{column}", chosen, usable, reason))
    kept = chosen[: recipe.max_clients]
    reason = f"users who are not among the {recipe.max_clients or NO_LIMIT} with most rows"
    left.append(_left("max_clients", kept, usable, reason))
    pool = _pool(ranked, set(kept), home, usable)[: 2 * recipe.unseen_clients]
    notes = [*_notes(above, values, home, recipe)] if recipe.per else []
    return Chosen(kept, pool, left, notes)


def _home(rows: Counter[str]) -> str:
    """The value of most of a user's rows; of several, the first in the order of characters."""
    return min(rows, key=lambda value: (-rows[value], value))


def _places(ranked: Sequence[str], home: Mapping[str, str]) -> Iterator[int]:
    """For each user how many of the same value stand before; without values, how many users."""
    before: Counter[str] = Counter()
    for client in ranked:
        value = home.get(client, "")
        yield before[value]
        before[value] += 1


def _pool(ranked: Sequence[str], kept: set[str], home: Mapping[str, str], usable: Mapping[str, int]) -> list[str]:
    """Users who are no clients, those with most rows first.

    Where clients were chosen by a value, the values of clients take turns, so that not all are of the largest one.
    """
    known = {home[client] for client in kept} if home else set()
    rest = [client for client in ranked if client not in kept and usable[client] >= MIN_UNSEEN_ROWS]
    if not home:
        return rest
    rest = [client for client in rest if home[client] in known]
    places = dict(zip(rest, _places(rest, home), strict=True))
    return sorted(rest, key=places.__getitem__)  # stable: within a turn those with most rows first


def _notes(
    above: Sequence[str], values: Mapping[str, Counter[str]], home: Mapping[str, str], recipe: Recipe
) -> Iterator[str]:
    """Of values with fewer users than asked for, and of users who have rows of several values."""
    column, most = check_per(recipe.per)
    sizes = Counter(home[client] for client in above)
    if fewer := [f"{value} ({sizes[value]})" for value in sorted(sizes) if sizes[value] < most]:
        yield f"per_{column}: fewer than {counted(most, 'user')}, all of whom stay: {', '.join(fewer)}"
    if several := sum(len(values[client]) > 1 for client in above):
        yield (
            f"per_{column}: {counted(several, 'user', 'have')} rows of more than one {column}; each counts under that "
            "of most of their rows"
        )


def _left(step: str, clients: Sequence[str], usable: Mapping[str, int], reason: str) -> Left:
    return Left(step, sum(usable[client] for client in clients), len(clients), reason)
