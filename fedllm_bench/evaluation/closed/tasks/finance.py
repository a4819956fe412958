"""Sentiment of financial text: FPB, FiQA-SA, TFNS and NWGI.

As OpenFedLLM evaluates them (arXiv:2402.06954; its branch `eval`, a copy of FinGPT's benchmark): zero-shot, generated,
scored by accuracy and F1. FlowerTune (arXiv:2506.02961) takes the first three with its own prompt and splits: numbers
of the two are not to be mixed, so their tasks have names of their own. Rows become {instruction, text, label}.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, number, one_of, remade, split, text, value

LABELS = ("negative", "neutral", "positive")
ASKED = "Please choose an answer from {negative/neutral/positive}."
NEWS = f"What is the sentiment of this news? {ASKED}"
TWEET = f"What is the sentiment of this tweet? {ASKED}"
FPB_NEWS = "What is the sentiment of this news? Please choose only one answer from {/negative/neutral/positive}."
FPB_LABELS = dict(enumerate(LABELS))
TFNS_LABELS = {0: "negative", 1: "positive", 2: "neutral"}
NWGI_LABELS = {
    "strong negative": "negative",
    "moderately negative": "negative",
    "mildly negative": "neutral",
    "neutral": "neutral",
    "mildly positive": "neutral",
    "moderately positive": "positive",
    "strong positive": "positive",
}
SEED = 42
FPB_SHARE = 0.25  # that of `train_test_split` where none is said
FIQA_SHARE = 0.226  # 275 of 1,213
FLOWERTUNE_SHARE = 0.25
FIQA_BORDER = 0.1
Labels = Sequence[Sequence[str]]


def fpb(rows: Rows) -> Rows:
    """1,212 of 4,846 sentences: the test part of `train_test_split(seed=42)`."""
    return remade(split(rows, FPB_SHARE, SEED)["test"], lambda row: _fpb(row, FPB_NEWS))


def fpb_flowertune(rows: Rows) -> Rows:
    return remade(split(rows, FLOWERTUNE_SHARE, SEED)["test"], lambda row: _fpb(row, NEWS))


def fiqa(rows: Rows) -> Rows:
    """275 of 1,213 sentences of all three parts together."""
    return remade(split(rows, FIQA_SHARE, SEED)["test"], _fiqa)


def fiqa_flowertune(rows: Rows) -> Rows:
    """304 of the same 1,213 sentences."""
    return remade(split(rows, FLOWERTUNE_SHARE, SEED)["test"], _fiqa)


def tfns(rows: Rows) -> Rows:
    """All 2,388 tweets of the validation part."""
    return remade(rows, lambda row: _asked(TWEET, text(row, "text"), one_of(row, "label", TFNS_LABELS)))


def nwgi(rows: Rows) -> Rows:
    """All 4,048 texts of the test part; seven labels become three, and "mildly" counts as neutral."""
    return remade(rows, lambda row: _asked(NEWS, text(row, "news"), one_of(row, "label", NWGI_LABELS)))


def _asked(instruction: str, words: str, label: str) -> dict[str, str]:
    return {"instruction": instruction, "text": words, "label": label}


def _fpb(row: Row, instruction: str) -> dict[str, str]:
    return _asked(instruction, text(row, "sentence"), one_of(row, "label", FPB_LABELS))


def _fiqa(row: Row) -> dict[str, str]:
    score = number(row, "sentiment_score")
    label = "negative" if score < -FIQA_BORDER else "neutral" if score < FIQA_BORDER else "positive"
    instruction = TWEET if value(row, "format") == "post" else NEWS
    return _asked(instruction, text(row, "sentence"), label)


# The published rules look for parts of words anywhere in the answer, and call everything else neutral.
def published_label(answer: str) -> str:
    """FiQA's, TFNS's and NWGI's rule, and FlowerTune's: positive comes first."""
    return _first_found(answer, {"positive": ("positive", "Positive"), "negative": ("negative", "Negative")})


def published_fpb_label(answer: str) -> str:
    """FPB's rule: negative comes first, and three letters are enough."""
    return _first_found(
        answer, {"negative": ("negative", "Negative", "Neg"), "positive": ("positive", "Positive", "Pos")}
    )


def _first_found(answer: str, marks: Mapping[str, Sequence[str]]) -> str:
    return next((label for label, found in marks.items() if any(mark in answer for mark in found)), "neutral")


def strict_label(answer: str) -> str:
    """The one label that stands as a word in the answer's first line; "" where there is none, or more than one."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    words = set(re.findall(r"\w+", line.casefold()))
    said = [label for label in LABELS if label in words]
    return said[0] if len(said) == 1 else ""


def published(answers: Labels, docs: object) -> Labels:
    """lm-eval's filter: answers of each item -> labels of each item."""
    return [[published_label(answer) for answer in item] for item in answers]


def published_fpb(answers: Labels, docs: object) -> Labels:
    return [[published_fpb_label(answer) for answer in item] for item in answers]


def strict(answers: Labels, docs: object) -> Labels:
    return [[strict_label(answer) for answer in item] for item in answers]


def scored(row: Row, results: Sequence[str]) -> dict[str, float | tuple[str, str]]:
    """`results`: the label that the filter found. F1 is of all items together, so it gets (right, said)."""
    said, right = results[0], row["label"]
    return {
        "acc": float(said == right),
        "macro_f1": (right, said),
        "weighted_f1": (right, said),
        "unparsable": float(said == ""),
    }


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """The mean of the labels' F1, over the labels that are right or said somewhere; "" is no label."""
    return _f1(pairs, {label for pair in pairs for label in pair if label}, "macro")


def weighted_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """The mean of the labels' F1, each weighted by the items of which it is the right label."""
    return _f1(pairs, {right for right, _ in pairs}, "weighted")


def _f1(pairs: Sequence[tuple[str, str]], labels: Collection[str], average: str) -> float:
    from sklearn.metrics import f1_score

    right, said = zip(*pairs, strict=True)
    return float(f1_score(right, said, labels=sorted(labels), average=average, zero_division=0))
