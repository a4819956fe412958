"""CRASS: what would have happened if (Frohberg and Binder, 2022, aclanthology.org/2022.lrec-1.229).

Asked as InstructEval asks it (arXiv:2306.04757, its `crass.py`): three shots, an answer of 8 tokens that must begin
with the right letter. The shots are the first three rows. They stay among the items, as published, so three of the 274
items are answered in their own prompt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, letters, remade, text, value

SHOTS = 3
SHOT_PLACES = (2, 1, 2)  # where the right answers of the shots stand: C, B, C
SEED = 0
WRONG = ("Answer1", "Answer2", "PossibleAnswer3")


def items(rows: Rows) -> Rows:
    """All rows, the answers of each shuffled by one generator that goes on from row to row."""
    rng = random.Random(SEED)

    def shuffled(row: Row) -> dict[str, object]:
        right, *wrong = _answers(row)
        answers = [right, *wrong]
        rng.shuffle(answers)
        return _item(row, answers, right)

    return remade(rows, shuffled)


def shots(rows: Rows) -> list[dict[str, object]]:
    return [_shot(row, place) for row, place in zip(rows.select(range(SHOTS)), SHOT_PLACES, strict=True)]


def _shot(row: Row, place: int) -> dict[str, object]:
    right, *wrong = _answers(row)
    return _item(row, [*wrong[:place], right, *wrong[place:]], right)


def _answers(row: Row) -> list[str]:
    """The right one, then the wrong ones that are not empty."""
    wrong = [value(row, name) for name in WRONG]
    return [text(row, "CorrectAnswer").strip(), *(str(each).strip() for each in wrong if each and str(each).strip())]


def _item(row: Row, answers: Sequence[str], right: str) -> dict[str, object]:
    names = letters(len(answers))
    listed = "".join(f"\n{letter}. {answer}" for letter, answer in zip(names, answers, strict=True))
    question = f"{text(row, 'Premise').strip()} {text(row, 'QCC').strip()}{listed}\nAnswer:"
    return {"question": question, "letter": names[answers.index(right)], "number": len(answers)}


def first_letter(answers: Sequence[Sequence[str]], docs: object) -> list[list[str]]:
    """lm-eval's filter: the letter that each answer begins with; "" where it is none of A to D."""
    return [[_letter(answer) for answer in item] for item in answers]


def _letter(answer: str) -> str:
    start = answer.strip()[:1]
    return start if start in letters(4) else ""


def scored(row: Row, results: Sequence[str]) -> dict[str, float]:
    return {"acc": float(results[0] == row["letter"]), "unparsable": float(results[0] == "")}
