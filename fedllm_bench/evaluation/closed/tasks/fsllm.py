"""FederatedScope-LLM's rule for GSM8K (arXiv:2309.00363, its `eval_for_gsm8k`).

Eight worked examples, then the first number after the first "the answer is", or the last number of an answer without
those words. Published answers are sampled (temperature 0.8, top-p 0.95) and the examples' order is drawn for each
question; here the answer is greedy and the order is that of Wei et al., 2022 (arXiv:2201.11903), as lm-eval's
`gsm8k_cot` has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, remade, text

TRIGGER = "the answer is"
NUMBER = re.compile(r"-?\d+\.?\d*")


def gsm8k(rows: Rows) -> Rows:
    def asked(row: Row) -> dict[str, str]:
        right = text(row, "answer").rpartition("####")[2].strip().replace(",", "")
        return {"question": text(row, "question"), "target": right}

    return remade(rows, asked)


@cache
def examples() -> list[dict[str, str]]:
    """The eight examples of lm-eval's own task, which is part of its package: {question, target}."""
    from lm_eval import tasks

    folder = Path(next(iter(tasks.__path__))) / "gsm8k"
    index = tasks.TaskManager(include_path=str(folder), include_defaults=False).task_index
    samples: list[dict[str, str]] = index["gsm8k_cot"].cfg["fewshot_config"]["samples"]
    return samples


def stated_number(answers: Sequence[Sequence[str]], docs: object) -> list[list[str]]:
    """lm-eval's filter: the number that each answer states; "" where there is none."""
    return [[_stated(answer) for answer in item] for item in answers]


def _stated(answer: str) -> str:
    _, stated, after = answer.lower().partition(TRIGGER)
    said = after.partition(TRIGGER)[0] if stated else answer
    found = NUMBER.findall(said.replace(",", ""))
    if not found:
        return ""
    return str(found[0] if stated else found[-1]).removesuffix(".")


def scored(row: Row, results: Sequence[str]) -> dict[str, float]:
    return {"acc": float(results[0] == row["target"]), "unparsable": float(results[0] == "")}
