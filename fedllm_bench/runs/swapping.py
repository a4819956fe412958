"""Answers of other users: a control that keeps what answers look like and takes away what they say.

Each training row keeps its prompt and gets the answers of another user's row. What a model can still learn of such rows
is the language, the form and where an answer ends; what an answer has to do with its prompt is gone.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TypeVar

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.client_split import Part, Split
from fedllm_bench.data.rows import PreferenceRow, Row, SftRow, Turn

log = logging.getLogger(__name__)
ANSWERS = 4  # purpose of the random stream; 0 to 2 are those of training, 3 that of shuffled users
WINDOW = 16  # rows of like length whose answers go round among each other
REACH = 200  # rows of like length, on either side, that are tried where two answers read the same
R = TypeVar("R", SftRow, PreferenceRow)


@dataclass(frozen=True)
class Swapped(Split):
    """A split whose training rows have the answers of the rows that :func:`donors` names; other parts stay."""

    seed: int

    @property
    def hash(self) -> str:
        """Another one than that of the split, since its training rows are others."""
        return f"{self.manifest.hash} answers swapped {self.seed}"

    def rows(self, part: Part) -> list[SftRow]:
        rows = super().rows(part)
        return _swapped(rows, self.seed) if part == "train" else rows

    def preference_rows(self, part: Part) -> list[PreferenceRow]:
        rows = super().preference_rows(part)
        return _swapped(rows, self.seed) if part == "train" else rows


def swapped(split: Split, seed: int) -> Swapped:
    """The control of `split`; a :class:`UserError` where its training rows are read and are fewer than two."""
    return Swapped(split.folder, split.manifest, seed)


def _swapped(rows: Sequence[R], seed: int) -> list[R]:
    found = donors(rows, seed)
    same = sum(rows[i].client_id == rows[j].client_id for i, j in enumerate(found))
    log.info(
        "%d training rows have the answer of another row (data.swap_answers); for %d of them it is of the same user, "
        "who alone writes in that language; %d have an answer that another row has too",
        len(rows),
        same,
        len(rows) - len(set(found)),
    )
    return [with_answers(row, rows[j]) for row, j in zip(rows, found, strict=True)]


def with_answers(row: R, donor: R) -> R:
    """`row` with the answers of `donor`: of a vote both; of a conversation all, in their order.

    Where the donor's conversation has fewer answers, they begin again; where it has more, its last ones are left out.
    """
    if isinstance(row, PreferenceRow):
        assert isinstance(donor, PreferenceRow)
        return replace(row, chosen=donor.chosen, rejected=donor.rejected)
    texts = cycle(answers_of(donor))
    turns = tuple(
        Turn(role=turn["role"], content=next(texts) if turn["role"] == "assistant" else turn["content"])
        for turn in row.messages
    )
    return replace(row, messages=turns)


def answers_of(row: Row) -> tuple[str, ...]:
    """What is swapped: all that the assistant says in a conversation; of a vote the chosen and the rejected answer."""
    if isinstance(row, PreferenceRow):
        return row.chosen, row.rejected
    return tuple(turn["content"] for turn in row.messages if turn["role"] == "assistant")


def donors(rows: Sequence[Row], seed: int) -> list[int]:
    """For each row the number of the row whose answers it gets, a function of the rows, their order and the seed.

    It is a permutation among the rows of one language and source, and rows of like length (and like number of
    answers) swap, so that language and form stay. No row gets its own answers, nor those of another row of its user.

    The exceptions: where one user has more than half of the rows of a language and source, the rows that are too many
    get answers of other users that another row has too, of the same source where these are enough, else of the
    language. Who alone writes in a language gets answers of other rows of their own; of one such row, of any other.
    Two answers that read the same are not swapped for each other where rows of like length allow it.

    Raises a :class:`UserError` for fewer than two rows.
    """
    if len(rows) < 2:
        raise UserError("data.swap_answers=true: the split has fewer than 2 training rows; give another split, or "
                        "data.swap_answers=false")  # fmt: skip
    swap = _Swap(rows, [answers_of(row) for row in rows], list(range(len(rows))))
    rng = np.random.default_rng([ANSWERS, seed])
    groups, languages = defaultdict[tuple[str, str], list[int]](list), defaultdict[str, list[int]](list)
    for number, row in enumerate(rows):
        groups[row.language, row.source].append(number)
        languages[row.language].append(number)
    for (language, _), group in sorted(groups.items()):
        swap.go_round(group, rng)
        swap.mend(group)
        swap.lend(group, languages[language])
    return swap.found


@dataclass(frozen=True)
class _Swap:
    """`texts` are the answers of each row; `found` is what is being made: for each row the one it gets answers of."""

    rows: Sequence[Row]
    texts: Sequence[tuple[str, ...]]
    found: list[int]

    def by_length(self, group: Sequence[int]) -> list[int]:
        return sorted(group, key=lambda i: (len(self.texts[i]), sum(map(len, self.texts[i])), i))

    def go_round(self, group: Sequence[int], rng: np.random.Generator) -> None:
        """In windows of like length each row gets the answers of the next one, in random order."""
        order = self.by_length(group)
        starts = range(0, max(len(order) - 1, 1), WINDOW)  # a last row alone goes into the window before
        for start in starts:
            end = start + WINDOW if start + WINDOW in starts else len(order)
            window = rng.permutation(order[start:end]).tolist()
            for place, number in enumerate(window):
                self.found[number] = window[place - 1]

    def mend(self, group: Sequence[int]) -> None:
        """Rows with answers of their own user exchange them with the row of the nearest length that allows it.

        It succeeds for all where no user has more than half of the rows: of the n rows at most 2 n/2 - 1 are of the
        user or have answers of the user, counting the row itself once, and any other one will do.
        """
        order = self.by_length(group)
        self._exchange(order, lambda i, j: self.is_other(i, j) and self.texts[i] != self.texts[j], REACH)
        self._exchange(order, self.is_other, len(order))

    def _exchange(self, order: Sequence[int], fits: Callable[[int, int], bool], reach: int) -> None:
        found, hopeless = self.found, set()
        for place, i in enumerate(order):
            if fits(i, found[i]) or (reach >= len(order) and self.rows[i].client_id in hopeless):
                continue
            for j in _around(order, place, reach):
                if fits(i, found[j]) and fits(j, found[i]):
                    found[i], found[j] = found[j], found[i]
                    break
            else:
                hopeless.add(self.rows[i].client_id)

    def is_other(self, i: int, j: int) -> bool:
        return self.rows[i].client_id != self.rows[j].client_id

    def lend(self, group: Sequence[int], language: Sequence[int]) -> None:
        """Rows that still have answers of their own user, who is one and the same, get what other rows have too."""
        left = self.by_length([i for i in group if not self.is_other(i, self.found[i])])
        if not left:
            return
        near = [j for j in group if self.is_other(left[0], j)]
        pool = self.by_length(near if len(near) >= len(left) else [j for j in language if self.is_other(left[0], j)])
        for place, i in enumerate(left):
            if pool:
                self.found[i] = pool[place * len(pool) // len(left)]
            elif self.found[i] == i:
                self.found[i] = self._any_other(i, language)

    def _any_other(self, i: int, language: Sequence[int]) -> int:
        """The row of the nearest length: of the same language, else of another user, else any."""
        everyone = range(len(self.rows))
        own = [j for j in language if j != i]
        pool = own or [j for j in everyone if self.is_other(i, j)] or [j for j in everyone if j != i]
        length = sum(map(len, self.texts[i]))
        return min(pool, key=lambda j: (abs(sum(map(len, self.texts[j])) - length), j))


def _around(order: Sequence[int], place: int, reach: int) -> Iterator[int]:
    """What stands up to `reach` places from `place`, from the nearest on."""
    for distance in range(1, min(reach, len(order)) + 1):
        if place >= distance:
            yield order[place - distance]
        if place + distance < len(order):
            yield order[place + distance]
