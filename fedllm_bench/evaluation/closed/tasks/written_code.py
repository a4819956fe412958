"""Code that is compared with a reference and never run: CoNaLa and ConCode, by BLEU.

Two shots and the prompts of bigcode-evaluation-harness (its tasks `conala` and `concode`); its two fixed examples are
replaced by the first two rows of the training part, and its BLEU by sacrebleu's, so numbers are near its, not equal.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu import sentence_bleu

from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, remade, text, value

MEMBERS = "concode_field_sep"  # stands between the request and the members of the class


def conala(rows: Rows) -> Rows:
    """Python in one line; `rewritten_intent` says more than `intent`, and is empty for some."""
    return remade(rows, lambda row: _pair(value(row, "rewritten_intent") or text(row, "intent"), text(row, "snippet")))


def concode(rows: Rows) -> Rows:
    """Java in one line. The validation part: the test part has no answers; both have 2,000 rows."""
    return remade(rows, lambda row: _pair(_request(text(row, "nl")), text(row, "code")))


def _request(words: str) -> str:
    return words.split(MEMBERS)[0].strip().removesuffix(".").strip()


def _pair(request: str, code: str) -> dict[str, str]:
    return {"request": request.strip(), "code": code}


def first_line(answers: Sequence[Sequence[str]], docs: object) -> list[list[str]]:
    """lm-eval's filter: the line of code that each answer begins with."""
    return [[answer.strip().split("\n")[0].strip() for answer in item] for item in answers]


def scored(row: Row, results: Sequence[str]) -> dict[str, float | tuple[str, str]]:
    """`bleu` is of all items together, so it gets (right, written); `sentence_bleu` is an item's, 0 to 1."""
    written, right = results[0], row["code"]
    return {
        "bleu": (right, written),
        "sentence_bleu": min(1.0, sentence_bleu(written, [right]).score / 100),
        "exact_match": float(written.strip() == right.strip()),
    }
