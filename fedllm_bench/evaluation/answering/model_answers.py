"""A model's answers to the prompts of a benchmark: every turn in batches, each turn after the model's own answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedllm_bench.data.rows import Turn as ChatTurn
from fedllm_bench.evaluation.answering.decoding import DecodingRow, Queue, decode
from fedllm_bench.evaluation.answering.encoding import Encode
from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Key, next_turn
from fedllm_bench.evaluation.answering.sampling import uniforms
from fedllm_bench.evaluation.answering.spread_decoding import decode_elsewhere
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.evaluation.thoughts import said
from fedllm_bench.training.cluster.computing import UnderAdapters
from fedllm_bench.training.model.limits import context_of
from fedllm_bench.training.model.lora_model import LoraModel


class Answerer(Protocol):
    """Whoever answers: turns as they are finished, a few at a time; `done` are those that need no answer any more."""

    def __call__(self, prompts: Sequence[Prompt], done: Mapping[Key, AnsweredTurn]) -> Iterator[list[AnsweredTurn]]: ...


@dataclass(frozen=True, kw_only=True)
class ModelAnswerer:
    """The model as it is now, with whatever adapter is attached. `seed` and `benchmark` name the random draws.

    With `elsewhere` workers of Ray answer, under the adapter that they have been given.

    A prompt that leaves no room in the model's context has failed; one that leaves less than its limit of new tokens
    gets as many as there is room for, and its finish is "length" if they do not do.
    """

    model: LoraModel
    encode: Encode
    benchmark: str
    seed: int
    batch_tokens: int
    stop_ids: frozenset[int] | None = None  # what ends an answer; the model's own where not given
    elsewhere: UnderAdapters | None = None

    def __call__(self, prompts: Sequence[Prompt], done: Mapping[Key, AnsweredTurn]) -> Iterator[list[AnsweredTurn]]:
        by_id, turns, queue = {prompt.item_id: prompt for prompt in prompts}, dict(done), Queue()
        failed = self._ask(prompts, turns, queue)
        if failed:
            yield failed
        for rows in self._decoded(queue):
            finished = [self._turn(by_id[row.key[0]], row) for row in rows]
            turns |= {turn.key: turn for turn in finished}
            yield finished + self._ask([by_id[turn.item_id] for turn in finished], turns, queue)

    def _decoded(self, queue: Queue) -> Iterator[list[DecodingRow]]:
        if self.elsewhere is None:
            return decode(self.model, queue, self.batch_tokens, self.stop_ids)
        return decode_elsewhere(self.elsewhere, self.model, queue, self.batch_tokens, self.stop_ids)

    def _ask(self, prompts: Sequence[Prompt], turns: dict[Key, AnsweredTurn], queue: Queue) -> list[AnsweredTurn]:
        """Put the next turn of each prompt into the queue; returns those that cannot be asked, as failed."""
        failed = []
        for prompt in prompts:
            number = next_turn(prompt, turns)
            if number is not None:
                ids = self.encode(conversation(prompt, turns, number))
                room = self._room(len(ids))
                if room > 0:
                    queue.waiting.append(self._row(prompt, number, ids, room))
                else:
                    failed.append(_too_long(prompt, number, len(ids), len(ids) + room))
        return failed

    def _room(self, length: int) -> int:
        """New tokens for which the context has room after a prompt of `length` tokens; 0 or less where none is."""
        context = context_of(self.model.base)
        return context - length if context is not None else 2**31

    def _row(self, prompt: Prompt, number: int, ids: Sequence[int], room: int) -> DecodingRow:
        limit = min(prompt.max_new_tokens, room)
        stream = np.zeros(0)
        if prompt.temperature > 0:
            stream = uniforms(self.seed, self.benchmark, prompt.item_id, number, limit)
        return DecodingRow((prompt.item_id, number), tuple(ids), limit, prompt.temperature, stream)

    def _turn(self, prompt: Prompt, row: DecodingRow) -> AnsweredTurn:
        assert row.finish is not None
        made = row.made[:-1] if row.finish == "stop" else row.made  # what ends it may be no special token
        text = self.model.tokenizer.decode(list(made), skip_special_tokens=True).strip()
        return AnsweredTurn(
            item_id=prompt.item_id,
            prompt_hash=prompt.hash,
            turn=row.key[1],
            text=text,
            tokens=len(row.made),
            finish=row.finish,
            reason=row.reason,
        )


def conversation(prompt: Prompt, turns: Mapping[Key, AnsweredTurn], number: int) -> list[ChatTurn]:
    """The user's turns up to `number`, with what the model said between: thoughts are not shown to it again.

    That is how models with thoughts are trained, and what their own templates do.
    """
    talk: list[ChatTurn] = []
    for before in range(number):
        talk.append({"role": "user", "content": prompt.turns[before]})
        talk.append({"role": "assistant", "content": said(turns[prompt.item_id, before].text).text})
    return [*talk, {"role": "user", "content": prompt.turns[number]}]


def failed_turn(prompt: Prompt, number: int, reason: str) -> AnsweredTurn:
    return AnsweredTurn(
        item_id=prompt.item_id,
        prompt_hash=prompt.hash,
        turn=number,
        text="",
        tokens=0,
        finish="failed",
        reason=reason,
    )


def _too_long(prompt: Prompt, number: int, length: int, context: int) -> AnsweredTurn:
    return failed_turn(prompt, number, f"turn {number + 1} has {length} tokens and the model's context {context}")
