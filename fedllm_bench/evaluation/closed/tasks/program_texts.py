"""From rows and answers to whole programs with their tests: HumanEval, HumanEvalPack, MBPP, MultiPL-E.

Nothing is run here; :mod:`fedllm_bench.evaluation.closed.sandbox` does that, where it is permitted. lm-eval's own tasks
of these names run programs when they are loaded, without a sandbox, so they are never loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, text, value
from fedllm_bench.evaluation.code_text import line_kinds

# Chen et al., 2021 (arXiv:2107.03374), section 2.2: where an answer is cut
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
STOPS_OF_FSLLM = (*STOPS, "\nassert")
STOPS_OF_PACK = (*STOPS, "\n@", "\nassert")
MBPP_END = "[DONE]"
MBPP_SHOTS = (2, 3, 4)  # numbers of the tasks that Austin et al., 2021 (arXiv:2108.07732) showed
NUM_TESTS = 3
NO_BREAK_SPACE = "\u00a0"
# names that programs of HumanEvalPack may use without importing them
PRELUDE = """\
import collections, copy, datetime, functools, hashlib, heapq, itertools, math, re, statistics, string, sys
from typing import *
from collections import *
try:
    import numpy
    import numpy as np
except ImportError:
    pass
"""
Answers = Sequence[Sequence[str]]
Programs = list[list[str]]


def _each(answers: Answers, docs: Sequence[Row], program: Callable[[str, Row], str]) -> Programs:
    return [[program(answer, doc) for answer in item] for item, doc in zip(answers, docs, strict=True)]


def cut(answer: str, stops: Sequence[str]) -> str:
    """The answer up to the first of `stops`."""
    ends = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))]


def code_of(answer: str) -> str:
    """The first block of code of an answer that has one, else the answer up to a fence that closes what we opened.

    An answer whose first line is indented goes on with our code, so its first fence can only close that.
    """
    lines = answer.split("\n")
    kinds = line_kinds(lines)
    if "fence" not in kinds:
        return answer
    first = kinds.index("fence")
    begun = next((line for line in lines if line.strip()), "")
    if begun.startswith((" ", "\t")) and first > 0:
        return "\n".join(lines[:first])
    last = next((place for place in range(first + 1, len(lines)) if kinds[place] == "fence"), len(lines))
    return "\n".join(lines[first + 1 : last])


def _checked(rows: Rows, *names: str) -> Rows:
    """The rows, once each has these columns of text. Raises a :class:`UserError`."""
    for row in rows:
        for name in names:
            text(row, name)
    return rows


# --- HumanEval: the head of a function, to be gone on with


def humaneval(rows: Rows) -> Rows:
    return _checked(rows, "prompt", "test", "entry_point")


def humaneval_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    return _each(answers, docs, lambda answer, doc: _tested(doc, doc["prompt"] + cut(answer, STOPS)))


def humaneval_fsllm_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    """FederatedScope-LLM's rule: hard spaces taken out, the first line indented by four."""

    def body(answer: str) -> str:
        kept = cut(answer.replace(NO_BREAK_SPACE, ""), STOPS_OF_FSLLM)
        return " " * 4 + kept.lstrip(" ")

    return _each(answers, docs, lambda answer, doc: _tested(doc, doc["prompt"] + body(answer)))


def humaneval_instruct_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    """Of an answer in words: its first block of code, behind the head where it does not define the function itself."""

    def program(answer: str, doc: Row) -> str:
        code = code_of(answer)
        name = re.escape(doc["entry_point"])
        defined = re.search(rf"^[ \t]*def[ \t]+{name}\b", code, re.MULTILINE)
        return _tested(doc, f"{doc['prompt']}\n    pass\n\n{code}" if defined else doc["prompt"] + code)

    return _each(answers, docs, program)


def _tested(doc: Row, code: str) -> str:
    return f"{code}\n{doc['test']}\ncheck({doc['entry_point']})\n"


# --- HumanEvalPack: the same functions to be mended, or written as an instruction says. Muennighoff et al., 2023
# (arXiv:2308.07124), in the form `instruct` of bigcode-evaluation-harness


def humanevalpack(rows: Rows) -> Rows:
    return _checked(rows, "prompt", "declaration", "buggy_solution", "entry_point", "test", "instruction")


def fix_prompt(doc: Row) -> str:
    wrong = doc["declaration"] + doc["buggy_solution"] + "\n" + doc["test"]
    return f"{wrong}\nFix bugs in {doc['entry_point']}.\n\n{doc['declaration']}".strip()


def synthesize_prompt(doc: Row) -> str:
    return f"{doc['instruction'].strip()}\n\n{doc['prompt']}".strip()


def fix_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    return _each(answers, docs, lambda answer, doc: _packed(doc["declaration"], answer, doc))


def synthesize_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    return _each(answers, docs, lambda answer, doc: _packed(doc["prompt"], answer, doc))


def _packed(head: str, answer: str, doc: Row) -> str:
    return f"{PRELUDE}{head.rstrip()}{_indented(cut(answer.rstrip(), STOPS_OF_PACK))}\n{doc['test']}\n"


def _indented(answer: str) -> str:
    """The lines before the first one that is neither empty nor indented. The answer begins in the head's last line."""
    lines = answer.split("\n")
    end = next((place for place, line in enumerate(lines) if line.strip() and line[0] not in " \t"), len(lines))
    return "\n".join(lines[:end])


# --- MBPP: a task in words, with its three tests


def mbpp(rows: Rows) -> Rows:
    for row in rows:
        text(row, "text")
        if len(_tests(row)) < NUM_TESTS:
            raise UserError(f"task {row.get('task_id')} has fewer than {NUM_TESTS} tests, so it is no row of MBPP")
    return rows


def mbpp_shots(rows: Rows) -> list[Row]:
    """The three examples that were published; the first three rows where they are not there."""
    found = [row for row in rows if row.get("task_id") in MBPP_SHOTS]
    return sorted(found, key=lambda row: MBPP_SHOTS.index(row["task_id"])) if len(found) == 3 else list(rows)[:3]


def mbpp_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    def program(answer: str, doc: Row) -> str:
        setup = doc.get("test_setup_code") or ""
        return "\n".join([code_of(cut(answer, [MBPP_END])), setup, *_tests(doc), ""])

    return _each(answers, docs, program)


def _tests(row: Row) -> list[str]:
    found = value(row, "test_list")
    return [str(test) for test in found] if isinstance(found, list) else []


# --- MultiPL-E: HumanEval in other languages. Cassano et al., 2022 (arXiv:2208.08227)


def multipl_e(rows: Rows) -> Rows:
    return _checked(rows, "prompt", "tests")


def multipl_e_programs(answers: Answers, docs: Sequence[Row]) -> Programs:
    """Cut where the row says that a function of its language ends."""

    def program(answer: str, doc: Row) -> str:
        return f"{doc['prompt'].strip()}{cut(answer, doc.get('stop_tokens') or [])}\n{doc['tests']}"

    return _each(answers, docs, program)


# --- what lm-eval gets of an item before anything is run


def counted_programs(doc: Mapping[str, object], results: Sequence[Sequence[str]]) -> dict[str, float]:
    return {"programs": float(len(results[0]))}
