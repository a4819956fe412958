"""Prompts and a model of no brain, for the tests of answering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedllm_bench.evaluation.answering.journal import AnsweredTurn, Key
from fedllm_bench.evaluation.records import Prompt

PROMPTS = [
    Prompt(item_id="a", turns=("Name a colour.", "And another one?"), temperature=0.0, max_new_tokens=6),
    Prompt(item_id="b", turns=("What is 2 plus 2?",), temperature=0.9, max_new_tokens=5),
    Prompt(item_id="c", turns=("Say more", "Again", "Again"), temperature=0.9, max_new_tokens=4),
]


class Scripted:
    """Answers every turn with its name, in batches of two; raises after `most` turns."""

    def __init__(self, most: int = 99, failing: tuple[str, ...] = ()) -> None:
        self.asked: list[Key] = []
        self.most, self.failing = most, failing

    def __call__(self, prompts: Sequence[Prompt], done: Mapping[Key, AnsweredTurn]) -> Iterator[list[AnsweredTurn]]:
        keys = [(p, n) for p in prompts for n in range(len(p.turns)) if (p.item_id, n) not in done]
        for start in range(0, len(keys), 2):
            if len(self.asked) >= self.most:
                raise KeyboardInterrupt
            yield [self.turn(prompt, number) for prompt, number in keys[start : start + 2]]

    def turn(self, prompt: Prompt, number: int) -> AnsweredTurn:
        self.asked.append((prompt.item_id, number))
        given = {"item_id": prompt.item_id, "prompt_hash": prompt.hash, "turn": number}
        if prompt.item_id in self.failing:
            return AnsweredTurn(**given, text="", tokens=0, finish="failed", reason="no luck")
        return AnsweredTurn(**given, text=f"{prompt.item_id}{number}\u2028", tokens=2, finish="stop")
