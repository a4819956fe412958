"""What a judge is asked about two answers: MT-Bench's own pairwise prompts over the six models' published answers.

Zheng et al., 2023 (arXiv:2306.05685), section 3.1 and appendix A: pair-v2 and pair-math-v1, each also for a second
turn. The math ones, with a reference answer, are for math, reasoning and coding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedllm_bench.common import files
from fedllm_bench.data.fetch.assets import ASSETS, fetch
from fedllm_bench.evaluation.judges.questions import REFERENCE_CATEGORIES
from fedllm_bench.evaluation.judges.templates import JudgeTemplate, Messages, mt_bench_templates
from fedllm_bench.evaluation.judging.votes import Match

QUESTIONS = "mt_bench/question.jsonl"
REFERENCES = "mt_bench/reference_answer_gpt-4.jsonl"
ANSWERS = "mt_bench/model_answer/"
PairOrder = Literal["ab", "ba"]  # "ab" shows model_a's answer first
ORDERS: tuple[PairOrder, ...] = ("ab", "ba")


@dataclass(frozen=True, kw_only=True)
class BattleMaterial:
    """Questions and answers by question id; `answers` by model. `templates`: name -> MT-Bench's."""

    questions: Mapping[str, tuple[str, ...]]
    categories: Mapping[str, str]
    references: Mapping[str, tuple[str, ...]]
    answers: Mapping[str, Mapping[str, tuple[str, ...]]]
    templates: Mapping[str, JudgeTemplate]

    def shown(self, match: Match, order: PairOrder) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The turns of the answer shown first, and of the other, up to the turn of the match."""
        a, b = (self.answers[model][match.question][: match.turn] for model in (match.model_a, match.model_b))
        return (a, b) if order == "ab" else (b, a)

    def lengths(self, match: Match) -> tuple[int, int]:
        """Characters of the answers of model_a and model_b in the turn of the match."""
        a, b = self.shown(match, "ab")
        return len(a[-1]), len(b[-1])


def mt_bench_material() -> BattleMaterial:
    """Raises a :class:`UserError` where an asset cannot be fetched."""
    questions = files.read_jsonl(fetch(QUESTIONS))
    return BattleMaterial(
        questions={str(row["question_id"]): tuple(row["turns"]) for row in questions},
        categories={str(row["question_id"]): row["category"] for row in questions},
        references=_turns(files.read_jsonl(fetch(REFERENCES))),
        answers={model: _turns(files.read_jsonl(fetch(f"{ANSWERS}{model}.jsonl"))) for model in models()},
        templates=mt_bench_templates(),
    )


def models() -> list[str]:
    """The models whose answers are an asset."""
    return sorted(name.removeprefix(ANSWERS).removesuffix(".jsonl") for name in ASSETS if name.startswith(ANSWERS))


def _turns(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    return {str(row["question_id"]): tuple(row["choices"][0]["turns"]) for row in rows}


def pair_messages(material: BattleMaterial, match: Match, order: PairOrder) -> Messages:
    """The two answers of a match, as they are put to a judge."""
    has_reference = material.categories[match.question] in REFERENCE_CATEGORIES
    name = ("pair-math-v1" if has_reference else "pair-v2") + ("-multi-turn" if match.turn > 1 else "")
    return material.templates[name].filled(_fields(material, match, order, has_reference))


def _fields(material: BattleMaterial, match: Match, order: PairOrder, has_reference: bool) -> dict[str, str]:
    """`question`, `answer_a` in a first turn; `question_1`, `answer_a_2` and so on in a later one."""
    first, second = material.shown(match, order)
    references = material.references[match.question] if has_reference else ()
    columns = {"question": material.questions[match.question], "answer_a": first, "answer_b": second}
    fields = {f"{name}_{number}": text for name, turns in columns.items() for number, text in enumerate(turns, 1)}
    fields |= {f"ref_answer_{number}": text for number, text in enumerate(references, 1)}
    return fields | {name: turns[0] for name, turns in columns.items()}
