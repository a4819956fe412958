"""The held-out items that metrics score: a row, its tokens, and what the mini world knows of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import Part, Split
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import TokenRow

PROBES = "probes.jsonl"  # an extra file of mini splits


@dataclass(frozen=True)
class HeldoutItem:
    """`tokens` is None for a row without counted tokens; `choices` has the right answer first."""

    row: SftRow
    tokens: TokenRow | None
    part: Literal["heldout", "unseen"]
    task: str = ""
    holder: str = ""
    choices: tuple[str, ...] = ()

    @property
    def group(self) -> dict[str, str]:
        known = {"part": self.part, "language": self.row.language, "task": self.task, "holder": self.holder}
        return {key: value for key, value in known.items() if value}


@dataclass(frozen=True)
class Probe:
    """What the mini world says of one held-out question."""

    task: str = ""
    holder: str = ""
    choices: tuple[str, ...] = field(default=())


Key = tuple[str, str, str]  # client, prompt, completion


def load_probes(split: Split) -> dict[Key, Probe]:
    """The probes of a mini split; {} for any other split."""
    if PROBES not in split.manifest.files:
        return {}
    records = [json.loads(line) for line in (split.folder / PROBES).read_text(encoding="utf-8").splitlines()]
    return {
        (r["client"], r["prompt"], r["completion"]): Probe(r["task"], r["holder"], tuple(r["choices"])) for r in records
    }


def heldout_items(clients: Clients) -> list[HeldoutItem]:
    """Every held-out row of the clients, then of unseen users, in the order of the split."""
    probes = load_probes(clients.split)
    return _part_items(clients, "heldout", probes) + _part_items(clients, "unseen", probes)


def _part_items(clients: Clients, part: Part, probes: dict[Key, Probe]) -> list[HeldoutItem]:
    tokens = clients.tokens[part]
    place = {int(row): number for number, row in enumerate(tokens.rows)}
    items = []
    for number, row in enumerate(clients.split.rows(part)):
        probe = probes.get((row.client_id, row.prompt, row.completion), Probe())
        encoded = tokens[place[number]] if number in place else None
        name: Literal["heldout", "unseen"] = "unseen" if part == "unseen" else "heldout"
        items.append(HeldoutItem(row, encoded, name, probe.task, probe.holder, probe.choices))
    return items


def of_clients(items: Sequence[HeldoutItem], client_ids: Sequence[str]) -> list[HeldoutItem]:
    wanted = set(client_ids)
    return [item for item in items if item.row.client_id in wanted]
