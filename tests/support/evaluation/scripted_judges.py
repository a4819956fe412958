"""Judges that follow a script, and the worlds they judge: a small invented one, and MT-Bench's own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from fedllm_bench.evaluation.judges.cost import Budget
from fedllm_bench.evaluation.judges.faults import NoReplyError
from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.questions import Question, request_hash
from fedllm_bench.evaluation.judges.templates import JudgeTemplate
from fedllm_bench.evaluation.judging.judging import judge_all, own_replies, to_ask
from fedllm_bench.evaluation.judging.pair_judging import pair_works, sample
from fedllm_bench.evaluation.judging.pair_prompts import ORDERS, BattleMaterial, mt_bench_material, pair_messages
from fedllm_bench.evaluation.judging.votes import JudgeVote, Match, by_match, expert_votes, majority
from fedllm_bench.evaluation.records import Reply

needs_mirror = pytest.mark.assets
ONE = "[The Start of Assistant {0}'s Answer]\n{1}\n[The End of Assistant {0}'s Answer]"
TWO = "### Assistant {0}:\n{1}\n\n### Assistant {0}:\n{2}\n\n<|The End of Assistant {0}'s Conversation"
PROMPTS = {
    "pair-v2": ONE.format("A", "{answer_a}") + ONE.format("B", "{answer_b}"),
    "pair-v2-multi-turn": TWO.format("A", "{answer_a_1}", "{answer_a_2}")
    + TWO.format("B", "{answer_b_1}", "{answer_b_2}"),
}
TEMPLATES = {name: JudgeTemplate(name=name, system="judge", prompt=prompt) for name, prompt in PROMPTS.items()}


class Scripted:
    """A judge that is a function of (messages, repeat). `asked` counts; what it `refuses` has no reply."""

    def __init__(self, name: str, say: Callable[..., str]) -> None:
        self.preset = Preset(name=name, model=name, base_url="http://localhost:9/v1")
        self.say, self.asked, self.budget = say, 0, Budget()
        self.refuses: Callable[[int], bool] = lambda number: False
        self.replies: dict[str, Reply] = {}

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def key(self, question: Question) -> str:
        return request_hash(self.preset.model, self.preset.options, question.messages, question.slot.repeat)

    def stored(self, question: Question) -> Reply | None:
        return self.replies.get(self.key(question))

    def submit(self, question: Question) -> Future[Reply]:
        future: Future[Reply] = Future()
        self.asked += 1
        if self.refuses(self.asked):
            future.set_exception(NoReplyError("timed out"))
            return future
        text = self.say(question.messages, question.slot.repeat)
        reply = Reply(text=text, model="m", price=0.001, prompt_tokens=10, seconds=0.5)
        self.replies[self.key(question)] = reply
        future.set_result(reply)
        return future

    def check_any(self) -> None:
        raise AssertionError("nothing was refused")


def ask(scripted: Scripted, folder: Path, matches: list[Match], material: BattleMaterial, repeats: int = 1) -> None:
    works = pair_works(folder, scripted.preset, matches, material, repeats)
    found = own_replies(works, scripted)
    judge_all(works, scripted, found, sum(1 for _ in to_ask(works, scripted, found)))


def shown_answer(messages, letter: str) -> str:
    """What stands in the prompt as the answer of A or B; in a second turn, that to the second question."""
    text = messages[-1]["content"]
    before, after = f"[The Start of Assistant {letter}'s Answer]\n", f"\n[The End of Assistant {letter}'s Answer]"
    if before not in text:
        before, after = f"### Assistant {letter}:\n", f"\n\n<|The End of Assistant {letter}'s Conversation"
    return text[: text.index(after)].rpartition(before)[2]


def longer(messages, repeat: int) -> str:
    first, second = (len(shown_answer(messages, letter)) for letter in "AB")
    return f"[[{'C' if first == second else 'A' if first > second else 'B'}]]"


def at_random(messages, repeat: int) -> str:
    digest = hashlib.sha256(f"{messages[-1]['content']}{repeat}".encode()).digest()
    return f"Either. [[{'AB'[digest[0] % 2]}]]"


def first_always(messages, repeat: int) -> str:
    return "[[B]] would be wrong. [[A]]"


def copies(experts: list[JudgeVote], material: BattleMaterial) -> Callable[..., str]:
    """The experts' majority, whichever order is shown."""
    says: dict[str, str] = {}
    for match, own in by_match(experts).items():
        for order in ORDERS:
            letters = {"a": "A", "b": "B", "tie": "C"} if order == "ab" else {"a": "B", "b": "A", "tie": "C"}
            says[pair_messages(material, match, order)[-1]["content"]] = f"[[{letters[majority(own)]}]]"
    return lambda messages, repeat: says[messages[-1]["content"]]


def of_unequal_prompts(experts: list[JudgeVote], material: BattleMaterial) -> list[JudgeVote]:
    """Without the matches in which two models gave the same answer: this judge cannot know which of them it sees."""
    prompts = {match: pair_messages(material, match, "ab")[-1]["content"] for match in by_match(experts)}
    swapped = {match: pair_messages(material, match, "ba")[-1]["content"] for match in prompts}
    counts = Counter([*prompts.values(), *swapped.values()])
    kept = [v for v in experts if counts[prompts[v.match]] == counts[swapped[v.match]] == 1]
    assert len(kept) > 0.95 * len(experts)
    return kept


def small_world(questions: int = 30, seed: int = 0) -> tuple[BattleMaterial, list[JudgeVote]]:
    """Three models, one turn or two, answers of unequal length; two experts on each match, who tie now and then."""
    rng = np.random.default_rng(seed)
    ids = [str(number) for number in range(questions)]
    names = ("m1", "m2", "m3")
    answers = {
        name: {q: tuple(f"{name} {q} {t} " + "x" * int(rng.integers(3, 400)) for t in (1, 2)) for q in ids}
        for name in names
    }
    material = BattleMaterial(
        questions={q: (f"first {q}", f"second {q}") for q in ids},
        categories=dict.fromkeys(ids, "writing"),
        references={},
        answers=answers,
        templates=TEMPLATES,
    )
    matches = [Match(q, turn, a, b) for q in ids for turn in (1, 2) for a, b in (("m1", "m2"), ("m2", "m3"))]
    votes = [
        JudgeVote(match, f"expert_{number}", winner)
        for match in matches
        for number, winner in enumerate(rng.choice(["a", "b", "tie"], size=2, p=[0.4, 0.4, 0.2]).tolist())
    ]
    return material, votes


def real_world() -> tuple[BattleMaterial, list[JudgeVote]]:
    """400 of its 1,633 matches, all 80 questions among them."""
    votes = expert_votes()
    kept = set(sample((vote.match for vote in votes), 400))
    return mt_bench_material(), [vote for vote in votes if vote.match in kept]


WORLDS = [pytest.param(small_world, id="small"), pytest.param(real_world, id="mt_bench", marks=needs_mirror)]
