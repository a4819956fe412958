"""Which questions a judge is asked about answers: one for each turn, repeat and, in pairs, order.

MT-Bench and Vicuna bench are graded as FastChat does (Zheng et al., 2023, appendix A): a prompt for the first turn, one
for the second that shows both, and for math, reasoning and coding the variants with a reference answer. The other
benchmarks use the suite's own prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import unknown
from fedllm_bench.evaluation.judges.templates import (
    JudgeTemplate,
    Messages,
    mt_bench_templates,
    own_templates,
    scores_template,
    shown,
)
from fedllm_bench.evaluation.records import Answer, Order, Prompt
from fedllm_bench.evaluation.thoughts import said

REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
SCORES = ".scores"  # behind a benchmark's name: judgements of pairs whose answers get scores
TOGETHER = "User:\n{}\n\nAssistant:\n{}\n\n"  # earlier turns, before the one that is graded


class NotAskedError(Exception):
    """There is nothing to ask about this turn; the text says why."""


@dataclass(frozen=True)
class Slot:
    """Where a judgement belongs in the file of its benchmark and side."""

    item_id: str
    turn: int
    repeat: int = 0
    order: Order = ""


@dataclass(frozen=True)
class Question:
    """`messages` is empty where nothing is asked, and `reason` says why. `right` and `given` are for rules."""

    slot: Slot
    messages: Messages = ()
    reason: str = ""
    right: str = ""
    given: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grading:
    """How a benchmark is graded. `single` names the template for a prompt and a turn (from 1).

    `needs_reference`: categories whose prompts are not graded without a reference answer.
    """

    single: Callable[[Prompt, int], str]
    is_paired: bool = True
    needs_reference: tuple[str, ...] = ()


def _mt_bench(prompt: Prompt, turn: int) -> str:
    return _mt_bench_name("single", prompt, turn)


def _mt_bench_name(kind: str, prompt: Prompt, turn: int) -> str:
    with_reference = prompt.category in REFERENCE_CATEGORIES and len(prompt.references) >= turn
    general = {"single": "single-v1", "pair": "pair-v2"}[kind]
    return (f"{kind}-math-v1" if with_reference else general) + ("-multi-turn" if turn > 1 else "")


def _open_answer(prompt: Prompt, turn: int) -> str:
    return "open_answer_reference" if len(prompt.references) >= turn else "open_answer"


GRADINGS: dict[str, Grading] = {
    "mt_bench": Grading(single=_mt_bench, needs_reference=REFERENCE_CATEGORIES),
    "vicuna_bench": Grading(single=_mt_bench),
    "ref_gpt4": Grading(single=_open_answer),
    "heldout_ref": Grading(single=_open_answer),
    "advbench": Grading(single=lambda prompt, turn: "harmfulness", is_paired=False),
    "mini": Grading(single=lambda prompt, turn: "right_answer"),
}


def grading(benchmark: str) -> Grading:
    if benchmark not in GRADINGS:
        raise unknown("benchmark that judges grade", benchmark, GRADINGS)
    return GRADINGS[benchmark]


def scale(benchmark: str, prompt: Prompt, turn: int) -> tuple[float, float]:
    """The lowest and highest rating that the judge is asked for; MT-Bench's prompts ask for 1 to 10."""
    template = own_templates().get(grading(benchmark).single(prompt, turn))
    return (template.low, template.high) if template else (1.0, 10.0)


def request_hash(model: str, options: Mapping[str, Any], messages: Messages, repeat: int) -> str:
    """The whole request: equal ones are asked once, whatever run, side or item they come from."""
    asked = {"model": model, "options": dict(options), "messages": [dict(m) for m in messages], "repeat": repeat}
    return files.sha256_json(asked)


@dataclass(frozen=True)
class Asker:
    """Makes questions with all templates at hand; those of MT-Bench are fetched only where `benchmark` needs them."""

    benchmark: str
    templates: Mapping[str, JudgeTemplate]

    @classmethod
    def of(cls, benchmark: str, *, paired: bool = False) -> Asker:
        """Raises a :class:`UserError` where MT-Bench's templates are needed and cannot be fetched."""
        fetched = mt_bench_templates() if paired or grading(benchmark).single is _mt_bench else {}
        return cls(benchmark, {**own_templates(), **fetched})

    def single(self, prompts: Iterable[Prompt], answers: Mapping[str, Answer], repeats: int) -> Iterator[Question]:
        for prompt in prompts:
            for turn in range(1, len(prompt.turns) + 1):
                question = self._single(prompt, answers.get(prompt.item_id), turn)
                yield from _repeated(question, repeats)

    def pairs(
        self, prompts: Iterable[Prompt], a: Mapping[str, Answer], b: Mapping[str, Answer], repeats: int
    ) -> Iterator[Question]:
        """Each pair in both orders: "ab" shows the answer of `a` first."""
        orders: tuple[Order, ...] = ("ab", "ba")
        for prompt in prompts:
            for turn in range(1, len(prompt.turns) + 1):
                for order in orders:
                    both = (a.get(prompt.item_id), b.get(prompt.item_id))
                    yield from _repeated(self._pair(prompt, both, turn, order), repeats)

    def scored(
        self, prompts: Iterable[Prompt], a: Mapping[str, Answer], b: Mapping[str, Answer], repeats: int
    ) -> Iterator[Question]:
        """As :meth:`pairs`, of first turns: each answer is to get a score, as from the Vicuna blog's reviewer."""
        orders: tuple[Order, ...] = ("ab", "ba")
        for prompt in prompts:
            for order in orders:
                both = (a.get(prompt.item_id), b.get(prompt.item_id))
                yield from _repeated(_scored(prompt, both, order), repeats)

    def _single(self, prompt: Prompt, answer: Answer | None, turn: int) -> Question:
        slot = Slot(prompt.item_id, turn)
        try:
            given = answered(prompt, answer, turn)
            template = self.templates[grading(self.benchmark).single(prompt, turn)]
            self._check(prompt, turn, template)
        except NotAskedError as error:
            return Question(slot, reason=str(error))
        values = {"question": shown(prompt.turns[0]), "answer": shown(given[-1])}
        values |= _numbered(prompt, given, "answer_{}")
        if template.name in own_templates():
            values |= {"question": _transcript(prompt, given), "ref_answer_1": shown(_right(prompt, turn))}
        return Question(slot, template.filled(values), right=_right(prompt, turn), given=(given[-1],))

    def _pair(self, prompt: Prompt, answers: tuple[Answer | None, Answer | None], turn: int, order: Order) -> Question:
        slot = Slot(prompt.item_id, turn, order=order)
        try:
            a, b = (answered(prompt, answer, turn) for answer in answers)
            template = self.templates[_mt_bench_name("pair", prompt, turn)]
            self._check(prompt, turn, template)
        except NotAskedError as error:
            return Question(slot, reason=str(error))
        first, second = (a, b) if order == "ab" else (b, a)
        values = {"question": shown(prompt.turns[0]), "answer_a": shown(first[-1]), "answer_b": shown(second[-1])}
        values |= _numbered(prompt, first, "answer_a_{}") | _numbered(prompt, second, "answer_b_{}")
        return Question(slot, template.filled(values), right=_right(prompt, turn), given=(first[-1], second[-1]))

    def _check(self, prompt: Prompt, turn: int, template: JudgeTemplate) -> None:
        if prompt.category in grading(self.benchmark).needs_reference and len(prompt.references) < turn:
            raise NotAskedError(f"no reference answer, which the category {prompt.category} is graded with")
        if turn > 2 and template.name not in own_templates():
            raise NotAskedError("MT-Bench's prompts have no third turn")


def _scored(prompt: Prompt, answers: tuple[Answer | None, Answer | None], order: Order) -> Question:
    slot = Slot(prompt.item_id, 1, order=order)
    try:
        a, b = (answered(prompt, answer, 1)[0] for answer in answers)
    except NotAskedError as error:
        return Question(slot, reason=str(error))
    first, second = (a, b) if order == "ab" else (b, a)
    values = {"question": shown(prompt.turns[0]), "answer_a": shown(first), "answer_b": shown(second)}
    return Question(slot, scores_template().filled(values), right=_right(prompt, 1), given=(first, second))


AsksPairs = Callable[[Iterable[Prompt], Mapping[str, Answer], Mapping[str, Answer], int], Iterator[Question]]


def asked_of_pairs(benchmark: str, *, is_scored: bool) -> AsksPairs:
    """How pairs are asked about. Raises a :class:`UserError` where MT-Bench's templates are needed and not there."""
    return Asker(benchmark, own_templates()).scored if is_scored else Asker.of(benchmark, paired=True).pairs


def answered(prompt: Prompt, answer: Answer | None, turn: int) -> tuple[str, ...]:
    """What was said up to `turn`, without thoughts. Raises :class:`NotAskedError` where there is no such answer."""
    if answer is None:
        raise NotAskedError("no answer")
    if answer.prompt_hash != prompt.hash or len(answer.turns) != len(prompt.turns):
        raise NotAskedError("the answer is to another prompt; answer again")
    if "failed" in answer.finish[:turn] or len(answer.finish) < turn:
        raise NotAskedError(f"no answer: {answer.reason or 'generation failed'}")
    given = [said(text) for text in answer.turns[:turn]]
    if reason := next((one.why_none for one in given if one.why_none), ""):
        raise NotAskedError(f"no answer: {reason}")
    return tuple(one.text for one in given)


def _repeated(question: Question, repeats: int) -> Iterator[Question]:
    slot = question.slot
    for repeat in range(repeats):
        yield Question(Slot(slot.item_id, slot.turn, repeat, slot.order), question.messages, question.reason,
                       question.right, question.given)  # fmt: skip


def _numbered(prompt: Prompt, given: tuple[str, ...], name: str) -> dict[str, str]:
    """question_1, answer_1, ref_answer_1 and so on, as far as there are any."""
    values = {f"question_{n}": shown(text) for n, text in enumerate(prompt.turns, start=1)}
    values |= {name.format(n): shown(text) for n, text in enumerate(given, start=1)}
    return values | {f"ref_answer_{n}": shown(text) for n, text in enumerate(prompt.references, start=1)}


def _transcript(prompt: Prompt, given: tuple[str, ...]) -> str:
    """The user's last turn, after what was said before it."""
    earlier = zip(prompt.turns, given[:-1], strict=False)
    before = "".join(TOGETHER.format(shown(asked), shown(answer)) for asked, answer in earlier)
    return before + shown(prompt.turns[len(given) - 1])


def _right(prompt: Prompt, turn: int) -> str:
    return prompt.references[turn - 1] if len(prompt.references) >= turn else ""
