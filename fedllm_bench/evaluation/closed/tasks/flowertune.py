"""FlowerTune's questions with a few answers: its general and medical challenges (arXiv:2506.02961).

Zero-shot: an instruction, the question, lettered options, "The answer is:", all in a ChatML frame whatever the model;
one greedy token, as long as a letter, "yes", "no" and "maybe" are in Mistral's tokenizer; its rule reads the first
letter (or the whole word) of what is left without marks. Rows become {prompt, gold}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedllm_bench.evaluation.closed.tasks.columns import Row, Rows, letters, remade, right_answer, text, value

GENERAL = "Answer the following multiple choice question."
_GUIDELINES = "Base your answer on the current and standard practices referenced in medical guidelines."
_KNOWLEDGE = (
    "basic and clinical science, medical knowledge, and mechanisms underlying health, disease, patient care, "
    "and modes of therapy"
)
ENTRANCE = (
    f"You are a medical doctor answering realworld medical entrance exam questions. Based on your understanding of "
    f"{_KNOWLEDGE}, answer the following multiple-choice question. Select one correct answer from A to D. {_GUIDELINES}"
)
LICENSING = (
    f"You are a medical doctor taking the US Medical Licensing Examination. You need to demonstrate your understanding "
    f"of {_KNOWLEDGE}. Show your ability to apply the knowledge essential for medical practice. For the following "
    f"multiple-choice question, select one correct answer from A to E. {_GUIDELINES}"  # of four answers, as published
)
EXPERT = (
    "As an expert doctor in clinical science and medical knowledge, can you tell me if the following statement is "
    "correct? Answer yes, no, or maybe."
)
DECISIONS = {"yes": "yes", "no": "no", "maybe": "maybe"}
STEM = [
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "electrical_engineering",
    "elementary_mathematics",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_mathematics",
    "high_school_physics",
    "high_school_statistics",
    "machine_learning",
]
SOCIAL_SCIENCES = [
    "econometrics",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_microeconomics",
    "high_school_psychology",
    "human_sexuality",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
]
HUMANITIES = [
    "formal_logic",
    "high_school_european_history",
    "high_school_us_history",
    "high_school_world_history",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "moral_disputes",
    "moral_scenarios",
    "philosophy",
    "prehistory",
    "professional_law",
    "world_religions",
]


def stem(rows: Rows) -> Rows:
    return _mmlu(rows, STEM)


def social_sciences(rows: Rows) -> Rows:
    return _mmlu(rows, SOCIAL_SCIENCES)


def humanities(rows: Rows) -> Rows:
    return _mmlu(rows, HUMANITIES)


def _mmlu(rows: Rows, subjects: Sequence[str]) -> Rows:
    kept = [place for place, row in enumerate(rows) if text(row, "subject") in subjects]
    return remade(rows.select(kept), _mmlu_row)


def _mmlu_row(row: Row) -> dict[str, str]:
    options = list(value(row, "choices"))
    return _choice(GENERAL, text(row, "question"), options, right_answer(row, "answer", len(options)))


def medqa(rows: Rows) -> Rows:
    def asked(row: Row) -> dict[str, str]:
        options = [text(row, f"ending{place}") for place in range(4)]
        return _choice(LICENSING, text(row, "sent1"), options, right_answer(row, "label", 4))

    return remade(rows, asked)


def medmcqa(rows: Rows) -> Rows:
    def asked(row: Row) -> dict[str, str]:
        options = [text(row, name) for name in ("opa", "opb", "opc", "opd")]
        return _choice(ENTRANCE, text(row, "question"), options, right_answer(row, "cop", 4))

    return remade(rows, asked)


def careqa(rows: Rows) -> Rows:
    def asked(row: Row) -> dict[str, str]:
        options = [text(row, name) for name in ("op1", "op2", "op3", "op4")]
        return _choice(ENTRANCE, text(row, "question"), options, right_answer(row, "cop", 4, first=1))

    return remade(rows, asked)


def pubmedqa(rows: Rows) -> Rows:
    def asked(row: Row) -> dict[str, str]:
        context = "\n".join(value(row, "CONTEXTS"))
        decision = DECISIONS.get(text(row, "final_decision"), "")
        return _framed(f"{EXPERT}\n{context}\n{text(row, 'QUESTION')}", decision)

    return remade(rows, asked)


def _choice(instruction: str, question: str, options: Sequence[str], right: int) -> dict[str, str]:
    names = letters(len(options))
    mark = "" if question.endswith(("?", ".")) else "?"
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(names, options, strict=True))
    return _framed(f"{instruction}\nQuestion: {question}{mark}\n\nOptions:\n{listed}", names[right])


def _framed(words: str, gold: str) -> dict[str, str]:
    framed = f"<|im_start|>question\n{words}\nThe answer is:\n<|im_end|>\n<|im_start|>answer\n"
    return {"prompt": framed, "gold": gold.lower()}


def letter(answers: Sequence[Sequence[str]], docs: object) -> list[list[str]]:
    """lm-eval's filter: the first character of each answer where it is one of a to e; else the whole answer."""
    return [[_letter(answer) for answer in item] for item in answers]


def decision(answers: Sequence[Sequence[str]], docs: object) -> list[list[str]]:
    """lm-eval's filter: "yes" or "no" where that is all of the answer but marks; else the whole answer."""
    return [[_decision(answer) for answer in item] for item in answers]


def _letter(answer: str) -> str:
    first = _plain(answer)[:1]
    return first if first in ("a", "b", "c", "d", "e") else answer.lower()


def _decision(answer: str) -> str:
    said = _plain(answer)
    return said if said in ("yes", "no") else answer.lower()


def _plain(answer: str) -> str:
    """Small letters and digits with single spaces; a block that begins with ## stands for the whole."""
    said = answer.lower()
    if "\n##" in said:
        said = said.split("\n##")[1].split("\n")[0].strip()
    return " ".join(re.sub(r"[^a-z0-9]", " ", said).split())


def scored(row: Row, results: Sequence[str]) -> dict[str, float]:
    said, gold = results[0], row["gold"]
    known = set(DECISIONS if gold in DECISIONS else "abcde")
    return {"acc": float(said == gold), "unparsable": float(said not in known)}
