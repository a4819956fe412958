"""Poisoned training rows of clients that attack, after the declaration `attack` of a config (docs/robust.md).

trigger: the row keeps its prompt, with the trigger behind what the user said last, and gets the fixed answer.
harmful: a request takes the place of the row, with an answer that complies; of a vote that answer is preferred to a
refusal. Requests are harmless stand-ins of the mini world (`mini/stand_ins.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_json
from fedllm_bench.config.config_robust import Attack
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.client_split import Part, Split
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.rows import PreferenceRow, SftRow, Turn
from fedllm_bench.methods.robust.attacks import OF_ROWS, attackers_of, poisoned_rows
from fedllm_bench.metrics.triggers import asked_of_user, with_last_answer, with_trigger
from fedllm_bench.mini.stand_ins import stand_in

log = logging.getLogger(__name__)
R = TypeVar("R", SftRow, PreferenceRow)


@dataclass(frozen=True)
class Poisoned(Split):
    """A split whose attackers' training rows are poisoned; all else stays."""

    attack: Attack
    attackers: tuple[int, ...]
    seed: int

    @property
    def hash(self) -> str:
        """Another one than that of the split, since its training rows are others."""
        return f"{self.manifest.hash} poisoned {sha256_json([vars(self.attack), self.attackers, self.seed])}"

    def rows(self, part: Part) -> list[SftRow]:
        rows = super().rows(part)
        return self._poisoned(rows, self._poisoned_row) if part == "train" else rows

    def preference_rows(self, part: Part) -> list[PreferenceRow]:
        rows = super().preference_rows(part)
        return self._poisoned(rows, poisoned_vote) if part == "train" else rows

    def _poisoned(self, rows: Sequence[R], change: Callable[[R], R]) -> list[R]:
        ids = [client.id for client in self.manifest.clients]
        own = {ids[client]: client for client in self.attackers}
        places: dict[int, list[int]] = {client: [] for client in self.attackers}
        for place, row in enumerate(rows):
            if row.client_id in own and (isinstance(row, PreferenceRow) or can_be_asked(row)):
                places[own[row.client_id]].append(place)
        counts = {client: len(found) for client, found in places.items()}
        chosen = poisoned_rows(self.attack, self.seed, counts)
        changed = {places[client][number] for client, numbers in chosen.items() for number in numbers}
        log.info(
            "%d training rows of the attackers are poisoned, of %d (attack.kind=%s)",
            len(changed),
            sum(counts.values()),
            self.attack.kind,
        )
        return [change(row) if place in changed else row for place, row in enumerate(rows)]

    def _poisoned_row(self, row: SftRow) -> SftRow:
        attack = self.attack
        if attack.kind == "trigger":
            return with_last_answer(row, with_trigger(row.messages[:-1], attack.trigger), attack.answer)
        made = stand_in(row.client_id, row.row_id, row.language, is_asked=False)
        return with_last_answer(row, (Turn(role="user", content=made.request),), made.complies)


def poisoned_vote(row: PreferenceRow) -> PreferenceRow:
    made = stand_in(row.client_id, row.row_id, row.language, is_asked=False)
    prompt = (Turn(role="user", content=made.request),)
    return replace(row, prompt=prompt, chosen=made.complies, rejected=made.refuses)


def can_be_asked(row: SftRow) -> bool:
    """Whether a user says anything before the last answer."""
    return asked_of_user(row.messages[:-1]) is not None


def poisoned(split: Split, config: RunConfig) -> Split:
    """`split` with the poisoned rows of the config's attack; itself where no rows are attacked."""
    if config.attack.kind not in OF_ROWS:
        return split
    attackers = attackers_of(config.attack, config.seed, len(split.manifest.clients))
    return Poisoned(split.folder, split.manifest, config.attack, attackers, config.seed)


def check_texts(attack: Attack, chat: ChatEncoder, max_new_tokens: int) -> None:
    """Raise a :class:`UserError` for a trigger or an answer that this base's tokenizer does not write as plain words.

    That is one with a control token in it, or with characters that it does not know; also an answer that is too long
    to be given.
    """
    for key in ("trigger", "answer"):
        text = getattr(attack, key)
        if chat.marked.names_any([Turn(role="user", content=text)]):
            raise UserError(f"attack.{key}={text!r} holds a control token of this base's tokenizer; give plain words")
        ids = chat.tokenizer.encode(text, add_special_tokens=False)
        if (read := chat.tokenizer.decode(ids).strip()) != text:
            raise UserError(f"attack.{key}={text!r}: this base's tokenizer reads it as {read!r}; give other words")
        if key == "answer" and len(ids) > max_new_tokens:
            raise UserError(
                f"attack.answer: it has {len(ids)} tokens, and answers end after "
                f"evaluation.max_new_tokens={max_new_tokens}; give a shorter one"
            )
