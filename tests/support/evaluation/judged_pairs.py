"""A folder whose side `global` a judge compared with another run's, or with its own `base`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from evaluation_records import write_answers, write_judgements, write_prompts

from fedllm_bench.common import files
from fedllm_bench.evaluation import records
from fedllm_bench.evaluation.judges.questions import Asker, request_hash
from fedllm_bench.evaluation.judges.templates import JudgeTemplate
from fedllm_bench.evaluation.records import Answer, Judgement, Order, Prompt, Reply

ORDERS: tuple[Order, ...] = ("ab", "ba")
ELSEWHERE = "global-vs-s1-0123abcd-global-00000000"  # pairs with answers that are in no folder here
TEMPLATES = {
    name: JudgeTemplate(name=name, system="", prompt="{answer_a} or {answer_b}?")
    for name in ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
}
Says = Callable[[Prompt, int, str], str]


def pair_judgements(prompts: Sequence[Prompt], says: Says, repeat: int = 0) -> list[Judgement]:
    """`says(prompt, turn, order)` is the judge's reply; "[[A]]" prefers the answer that was shown first."""
    return [
        Judgement(
            item_id=prompt.item_id,
            turn=turn,
            request_hash=f"{prompt.item_id}-{turn}-{order}",
            order=order,
            repeat=repeat,
            reply=Reply(text=says(prompt, turn, order), model="stub-1", prompt_tokens=10, price=0.001),
        )
        for prompt in prompts
        for turn in range(1, len(prompt.turns) + 1)
        for order in ORDERS
    ]


def won(order: str) -> str:
    return {"ab": "[[A]]", "ba": "[[B]]"}[order]


def lost(order: str) -> str:
    return {"ab": "[[B]]", "ba": "[[A]]"}[order]


def write_pairs(folder: Path, prompts: Sequence[Prompt], told: Sequence[Judgement], name: str = ELSEWHERE) -> None:
    """Answers of base and global to vicuna_bench, and the judgements of a file of pairs."""
    write_prompts(folder, "vicuna_bench", prompts)
    for side in ("base", "global"):
        write_answers(folder, "vicuna_bench", side, prompts, lambda p, turn, side=side: f"{side} {p.item_id}/{turn}")
    write_judgements(folder, "vicuna_bench", name, told)


def here(folder: Path) -> str:
    """The name of pairs of `global` with this folder's `base`."""
    content = records.answers_file(folder, "vicuna_bench", "base").read_bytes()
    return f"global-vs-{folder.name}-base-{hashlib.sha256(content).hexdigest()[:8]}"


def write_asked_pairs(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Judgements that global wins over base, each with the hash of the request that the present answers make."""
    write_pairs(folder, prompts, [])  # a file without judgements counts for nothing
    sides: list[dict[str, Answer]] = [
        {a.item_id: a for a in records.read_records(records.answers_file(folder, "vicuna_bench", side), Answer)}
        for side in ("global", "base")
    ]
    asked = Asker("vicuna_bench", TEMPLATES).pairs(prompts, *sides, 1)
    told = [
        Judgement(
            item_id=one.slot.item_id,
            turn=one.slot.turn,
            order=one.slot.order,
            request_hash=request_hash("stub-1", {}, one.messages, 0),
            reply=Reply(text=won(one.slot.order), model="stub-1"),
        )
        for one in asked
    ]
    write_judgements(folder, "vicuna_bench", here(folder), told)
    files.write_json(folder / "judgements" / "stub" / "judge.json", {"model": "stub-1", "options": {}})
