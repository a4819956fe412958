"""The held-out items that metrics score: a row, its tokens, and what the mini world knows of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, Literal, TypeVar

from fedllm_bench.common.files import sha256_json
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import Part
from fedllm_bench.data.pairs import PairRow
from fedllm_bench.data.rows import PreferenceRow, Row, SftRow
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.mini.probes import Probe, load_probes, probe_key
from fedllm_bench.scores.score import Score

HELDOUT: tuple[Part, ...] = ("heldout", "unseen")
ItemPart = Literal["heldout", "unseen", "train", "canary"]  # the last two are asked what a model remembers


R = TypeVar("R", bound=Row)
T = TypeVar("T", TokenRow, PairRow)


@dataclass(frozen=True)
class Item(Generic[R, T]):
    """`tokens` is None for a row without counted tokens; `choices` has the right answer first."""

    row: R
    tokens: T | None
    part: ItemPart
    task: str = ""
    holder: str = ""
    choices: tuple[str, ...] = ()

    @property
    def group(self) -> dict[str, str]:
        known = {"part": self.part, "language": self.row.language, "task": self.task, "holder": self.holder}
        return {key: value for key, value in known.items() if value}


@dataclass(frozen=True)
class HeldoutItem(Item[SftRow, TokenRow]):
    """A held-out completion."""


@dataclass(frozen=True)
class PairItem(Item[PreferenceRow, PairRow]):
    """A held-out vote; of `choices` the first is what the user preferred."""


AnyItem = TypeVar("AnyItem", bound=Item[Any, Any])


def owners_of(items: Sequence[Item[Any, Any]]) -> list[str]:
    """The client of each item."""
    return [item.row.client_id for item in items]


def unscored(item: Item[Any, Any], reason: str) -> Score:
    """The score of an item that could not be computed."""
    return Score(item.row.row_id, None, reason, cluster=item.row.client_id, group=item.group)


def heldout_items(clients: Clients) -> list[HeldoutItem]:
    """Every held-out row of the clients, then of unseen users, in the order of the split."""
    return [HeldoutItem(*item) for part in HELDOUT for item in _part_items(clients, part)]


def pair_items(clients: Clients) -> list[PairItem]:
    """As :func:`heldout_items`, for a split of task preference."""
    return [PairItem(*item) for part in HELDOUT for item in _part_items(clients, part)]


def member_items(clients: Clients, counts: Mapping[str, int], left_out: Collection[int] = ()) -> list[HeldoutItem]:
    """Training rows by client, at most so many of each, chosen by hashes: a function of the split alone.

    `left_out` are numbers of rows in the split that are none of the client's own.
    """
    tokens, found = clients.tokens["train"], dict[str, list[tuple[str, HeldoutItem]]]()
    place = {int(row): number for number, row in enumerate(tokens.rows)}
    for number, row in enumerate(clients.rows("train")):
        if number not in left_out and number in place and counts.get(row.client_id):
            rank = sha256_json([clients.split.hash, "member", row.client_id, row.row_id])
            item = HeldoutItem(row, tokens[place[number]], "train")  # type: ignore[arg-type]
            found.setdefault(row.client_id, []).append((rank, item))
    return [item for client, own in found.items() for _, item in sorted(own, key=itemgetter(0))[: counts[client]]]


def _part_items(clients: Clients, part: Part) -> Iterator[tuple[Any, ...]]:
    """The fields of each item of one part."""
    probes, tokens = load_probes(clients.split), clients.tokens[part]
    place = {int(row): number for number, row in enumerate(tokens.rows)}
    for number, row in enumerate(clients.rows(part)):
        probe = probes.get(probe_key(row), Probe())
        encoded = tokens[place[number]] if number in place else None
        yield row, encoded, part, probe.task, probe.holder, probe.choices


def of_clients(items: Sequence[AnyItem], client_ids: Sequence[str]) -> list[AnyItem]:
    wanted = set(client_ids)
    return [item for item in items if item.row.client_id in wanted]
