"""The scenarios of FederatedScope-LLM's HELM subset that lm-eval lacks (arXiv:2211.09110; its `run_specs.conf`).

Five shots, HELM's prompts, its score, and at most 1,000 items as in HELM: the first ones. Shots are drawn for each item
(lm-eval's sampler, one seed), where HELM draws them once. Left out: both MS MARCO tracks, whose ranked candidates are
not on the hub; the demographic splits of CivilComments, whose marks are not in the hub's set. Rows become {question,
answers}; the first answer is a shot's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, number, one_of, part, remade, split, text, value

SENTIMENTS = {0: "Negative", 1: "Positive"}
TOXIC = 0.5  # as the set's authors draw the line
NO_ANSWER = "CANNOTANSWER"  # QuAC's mark of a question that the text does not answer
SEED = 42
RAFT_TEST_SHARE = 0.2  # 10 of the 50 rows that have labels
NOT_SHOWN = ("ID", "Label")
Asked = dict[str, object]


def imdb(rows: Rows) -> Rows:
    return remade(rows, lambda row: _item(f"Passage: {text(row, 'text')}\nSentiment:", [_sentiment(row)]))


def _sentiment(row: Row) -> str:
    return one_of(row, "label", SENTIMENTS)


def civil_comments(rows: Rows) -> Rows:
    def asked(row: Row) -> Asked:
        question = f"Passage: {text(row, 'text')}\nQuestion: Is the passage above toxic?\nAnswer:"
        return _item(question, [str(number(row, "toxicity") >= TOXIC)])

    return remade(rows, asked)


def narrativeqa(rows: Rows) -> Rows:
    """Questions on the summary of a story; both of its answers are right."""

    def asked(row: Row) -> Asked:
        summary, question = (part(row, name) for name in ("document.summary.text", "question.text"))
        words = f"Passage: {summary.strip()}\nQuestion: {question.strip().removesuffix('?')}?\nAnswer:"
        return _item(words, [text(answer, "text").strip() for answer in value(row, "answers")])

    return remade(rows, asked)


def quac(rows: Rows) -> Rows:
    """One turn of each conversation, drawn by one generator that goes on from row to row; earlier turns are shown."""
    rng = random.Random(SEED)
    return remade(rows, lambda row: _turn(row, rng.randrange(len(value(row, "questions")))))


def _turn(row: Row, place: int) -> Asked:
    questions, first = value(row, "questions"), value(row, "orig_answers")["texts"]
    before = "".join(
        f"Question: {asked}\nAnswer: {said}\n\n" for asked, said in zip(questions[:place], first[:place], strict=True)
    )
    about = f"Title: {text(row, 'wikipedia_page_title')}\n\nBackground: {text(row, 'background')}\n\n"
    passage = f"Section: {text(row, 'section_title')}\nPassage: {text(row, 'context')}\n\n"
    others = value(row, "answers")["texts"][place]
    answers = list(dict.fromkeys([first[place], *others]))
    return _item(f"{about}{passage}{before}Question: {questions[place]}\nAnswer:", answers)


def xsum(rows: Rows) -> Rows:
    return _summary(rows, "document", "summary", "1 sentence")


def cnn_dailymail(rows: Rows) -> Rows:
    return _summary(rows, "article", "highlights", "3 sentences")


def _summary(rows: Rows, article: str, summary: str, length: str) -> Rows:
    def asked(row: Row) -> Asked:
        words = " ".join(text(row, article).split())
        return _item(f"###\nArticle: {words}\n\nSummarize the above article in {length}.", [text(row, summary)])

    return remade(rows, asked)


def raft_shots(rows: Rows) -> Rows:
    return _raft(rows, "train")


def raft(rows: Rows) -> Rows:
    """The hidden labels of the test part are not on the hub: of the 50 rows with labels, 40 are shots, 10 are asked."""
    return _raft(rows, "test")


def _raft(rows: Rows, kept: str) -> Rows:
    names = _label_names(rows)
    shown = [column for column in rows.column_names if column not in NOT_SHOWN]
    known = dict(enumerate(names)) | {name: name for name in names}
    head = "".join(f"{place}. {name}\n" for place, name in enumerate(names[1:], start=1))

    def asked(row: Row) -> Asked:
        words = "\n".join(f"{column}: {value(row, column)}" for column in shown)
        return {**_item(f"{words}\nLabel:", [one_of(row, "Label", known)]), "head": f"Possible labels:\n{head}\n"}

    return remade(split(rows, RAFT_TEST_SHARE, SEED)[kept], asked)


def _label_names(rows: Rows) -> Sequence[str]:
    """The first one is of rows without a label. In files of one's own labels may be texts."""
    names: Sequence[str] | None = getattr(rows.features.get("Label"), "names", None)
    if names:
        return names
    cells = list(rows["Label"]) if "Label" in rows.column_names else []
    if not cells or not all(isinstance(cell, str) for cell in cells):
        raise UserError(
            "the data set has no names of its labels: its column 'Label' has neither texts nor a ClassLabel"
        )
    return ["Unlabeled", *sorted(set(cells))]


def _item(question: str, answers: Sequence[str]) -> Asked:
    return {"question": question, "answers": list(answers)}
