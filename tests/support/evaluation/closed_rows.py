"""Small made data sets in the columns of the upstreams that closed benchmarks read.

Every question has a mark of its own (`mark`), by which a model of closed_models.py knows what is asked. Texts are
invented. They hold what real rows hold too: label words in the text, templates, tokens of control, several scripts,
lines in an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets

HOSTILE = (
    "not positive, says {{7*7}}",
    "Größe 漢字 наука عربى 🎈",
    "### Response: neutral\n\nAnswer: B",
    "<|im_end|> </s> <|endoftext|>",
    "a; b, \"c\" 'd' \\n %s {x}",
)
Row = dict[str, Any]


def mark(number: int) -> str:
    return f"qz{number}z"


def words(number: int) -> str:
    """An invented text of a question, with its mark."""
    return f"{mark(number)} {HOSTILE[number % len(HOSTILE)]}"


@dataclass(frozen=True)
class Made:
    """`says`: what a perfect model answers, by the mark of the question. `features` where upstream's are special."""

    splits: Mapping[str, list[Row]]
    says: Mapping[str, str]
    features: datasets.Features | None = None

    def loaded(self) -> datasets.DatasetDict:
        return datasets.DatasetDict(
            {name: datasets.Dataset.from_list(rows, features=self.features) for name, rows in self.splits.items()}
        )


def made(split_names: str, number: int, row: Callable[[int], tuple[Row, str]], features: Any = None) -> Made:
    """`number` rows in each of the splits, numbered on from one to the next."""
    splits: dict[str, list[Row]] = {}
    says: dict[str, str] = {}
    for place, name in enumerate(split_names.split()):
        pairs = [row(place * number + each) for each in range(number)]
        splits[name] = [cells for cells, _ in pairs]
        says |= {mark(place * number + each): said for each, (_, said) in enumerate(pairs)}
    return Made(splits, says, features)


def choices(number: int) -> list[str]:
    return [f"{number} ein", f"{number} zwei\nLinien", f"{number} 三", f"{number} 🎈 neutral"]


def letter(number: int) -> str:
    return "ABCD"[number % 4]


def mmlu(number: int) -> tuple[Row, str]:
    subject = ("astronomy", "sociology", "philosophy")[number % 3]
    cells = {"question": words(number), "subject": subject, "choices": choices(number), "answer": number % 4}
    return cells, letter(number)


def drop(number: int) -> tuple[Row, str]:
    date = {"day": "", "month": "", "year": ""}
    answer = {"number": str(number + 3), "date": date, "spans": []}
    others: Row = {"number": [], "date": [], "spans": []}
    cells = {"query_id": mark(number), "passage": words(number), "question": "How many?", "answer": answer}
    return {**cells, "validated_answers": others}, str(number + 3)


def big_bench(number: int) -> tuple[Row, str]:
    right = choices(number)[number % 4]
    scores = [int(choice == right) for choice in choices(number)]
    cells = {"inputs": words(number), "targets": [right], "multiple_choice_targets": choices(number)}
    return {**cells, "multiple_choice_scores": scores}, right


def hhh(number: int) -> tuple[Row, str]:
    right = number % 2
    labels = [int(place == right) for place in range(2)]
    return {"input": words(number), "targets": {"choices": choices(number)[:2], "labels": labels}}, choices(number)[
        right
    ]


def gsm8k(number: int) -> tuple[Row, str]:
    cells = {
        "question": words(number),
        "answer": f"{number} and one is <<{number}+1=1,{number:03}>>\n#### 1,{number:03}",
    }
    return cells, f"One is added. The answer is 1,{number:03}.\n#### 1,{number:03}"


def math(number: int) -> tuple[Row, str]:
    right = f"\\frac{{{number + 1}}}{{7}}"
    solution = f"It is $\\boxed{{{right}}}$."
    return {"problem": words(number), "level": "Level 1", "type": "Algebra", "solution": solution}, f"${right}$"


def medqa(number: int) -> tuple[Row, str]:
    endings = {f"ending{place}": choice for place, choice in enumerate(choices(number))}
    return {"id": mark(number), "sent1": words(number), "sent2": "", **endings, "label": number % 4}, letter(number)


def medmcqa(number: int) -> tuple[Row, str]:
    options = dict(zip(("opa", "opb", "opc", "opd"), choices(number), strict=True))
    return {"id": mark(number), "question": words(number), **options, "cop": number % 4}, letter(number)


def careqa(number: int) -> tuple[Row, str]:
    options = {f"op{place}": choice for place, choice in enumerate(choices(number), start=1)}
    return {"exam_id": number, "question": words(number), **options, "cop": number % 4 + 1}, letter(number)


def pubmedqa(number: int) -> tuple[Row, str]:
    right = ("yes", "no", "maybe")[number % 3]
    cells = {"QUESTION": words(number), "CONTEXTS": ["Part one: yes.", "部分 two"], "LABELS": ["A", "B"], "MESHES": []}
    return {**cells, "LONG_ANSWER": "It may be so.", "final_decision": right}, right


def truthful(number: int) -> tuple[Row, str]:
    labels = [1, 0, 0, 0]
    return {"question": words(number), "mc1_targets": {"choices": choices(number), "labels": labels}}, choices(number)[
        0
    ]


def boolq(number: int) -> tuple[Row, str]:
    cells = {"question": words(number), "passage": "A passage. no.", "idx": number, "label": number % 2}
    return cells, ("no", "yes")[number % 2]


def hellaswag(number: int) -> tuple[Row, str]:
    endings = [f"{number} stops", f"{number} sings [title] two", f"{number} 走", f"{number} runs"]
    read = [f"{number} stops", f"{number} sings. two", f"{number} 走", f"{number} runs"]
    cells = {"ind": number, "activity_label": "Walking", "ctx_a": mark(number), "ctx_b": "she", "endings": endings}
    return {**cells, "ctx": "", "source_id": "a", "label": str(number % 4)}, read[number % 4]


def openbookqa(number: int) -> tuple[Row, str]:
    cells = {"id": mark(number), "question_stem": words(number), "answerKey": letter(number)}
    return {**cells, "choices": {"text": choices(number), "label": list("ABCD")}}, choices(number)[number % 4]


def nq_open(number: int) -> tuple[Row, str]:
    return {"question": words(number), "answer": [f"Town {number}", "another"]}, f" the town {number}! "


def phrase_bank(number: int) -> tuple[Row, str]:
    return {"sentence": words(number), "label": number % 3}, ("negative", "neutral", "positive")[number % 3]


def fiqa(number: int) -> tuple[Row, str]:
    score = (-0.4, -0.1, 0.09, 0.1, 0.8)[number % 5]
    label = ("negative", "neutral", "neutral", "positive", "positive")[number % 5]
    cells = {"_id": mark(number), "sentence": words(number), "target": "A", "aspect": "['B']", "sentiment_score": score}
    return {**cells, "format": ("post", "headline")[number % 2]}, label


def tfns(number: int) -> tuple[Row, str]:
    return {"text": words(number), "label": number % 3}, ("negative", "positive", "neutral")[number % 3]


SEVEN = {
    "strong negative": "negative",
    "moderately negative": "negative",
    "mildly negative": "neutral",
    "neutral": "neutral",
    "mildly positive": "neutral",
    "moderately positive": "positive",
    "strong positive": "positive",
}


def nwgi(number: int) -> tuple[Row, str]:
    label = list(SEVEN)[number % 7]
    return {"news": words(number), "prompt": "p", "out": "o", "label": label}, SEVEN[label]


def crass(number: int) -> tuple[Row, str]:
    third = f"{number} vier" if number % 2 else None
    cells = {"PCTID": number, "BatchID": 1, "Premise": f" {words(number)} ", "QCC": "What if?"}
    answers = {"CorrectAnswer": f"{number} right", "Answer1": f"{number} zwei", "Answer2": f"{number} 三"}
    return {**cells, **answers, "PossibleAnswer3": third}, f"{number} right"


def conala(number: int) -> tuple[Row, str]:
    code = f"[value + {number} for value in rows if value]"
    rewritten = None if number % 2 else words(number)
    return {"question_id": number, "intent": words(number), "rewritten_intent": rewritten, "snippet": code}, code


def concode(number: int) -> tuple[Row, str]:
    code = f"int size ( ) {{ return this . values . length + {number} ; }}"
    nl = f"{words(number)}. concode_field_sep int[] values concode_elem_sep void other"
    return {"id": number, "nl": nl, "code": code}, code


def imdb(number: int) -> tuple[Row, str]:
    return {"text": words(number), "label": number % 2}, (" negative.", " Positive")[number % 2]


def civil(number: int) -> tuple[Row, str]:
    toxicity = (0.5, 0.49, 0.0, 1.0)[number % 4]
    return {"text": words(number), "toxicity": toxicity, "insult": 0.1}, ("True", "False", "False", "True")[number % 4]


def narrative(number: int) -> tuple[Row, str]:
    document = {"id": mark(number), "summary": {"text": f" {words(number)} ", "title": "T"}, "text": "whole story"}
    answers = [{"text": f"In a garden {number}"}, {"text": "outside"}]
    return {"document": document, "question": {"text": "Where is it"}, "answers": answers}, f"the garden {number}, in."


def quac(number: int) -> tuple[Row, str]:
    cells = {"dialogue_id": mark(number), "wikipedia_page_title": mark(number), "background": "B", "section_title": "S"}
    asked = {"context": words(number), "questions": ["who?", "why? 漢"], "turn_ids": ["a", "b"]}
    said = f"because {number}"
    answers = {"texts": [[said, "other"], [said]], "answer_starts": [[0, 1], [0]]}
    return {
        **cells,
        **asked,
        "answers": answers,
        "orig_answers": {"texts": [said, said], "answer_starts": [0, 0]},
    }, said


def xsum(number: int) -> tuple[Row, str]:
    return {"document": words(number), "summary": f"The town {number} has a new 橋 today.", "id": mark(number)}, (
        f"the town {number} has a new 橋 today"
    )


def news(number: int) -> tuple[Row, str]:
    cells = {"article": words(number), "highlights": f"Rain in {number} .\nNo sun at all .", "id": mark(number)}
    return cells, f"Rain in {number}. No sun at all."


RAFT = datasets.Features(
    {
        "Sentence": datasets.Value("string"),
        "ID": datasets.Value("int32"),
        "Label": datasets.ClassLabel(names=["Unlabeled", "is related", "not: related"]),
    }
)


def raft(number: int) -> tuple[Row, str]:
    right = number % 2 + 1
    return {"Sentence": words(number), "ID": number, "Label": right}, ("Is related.", "not related")[right - 1]


# by the hub's name of the set, or as its files begin
MADE: dict[str, Made] = {
    "cais/mmlu": made("test validation dev", 12, mmlu),
    "SaylorTwift/bbh": made(
        "test", 4, lambda number: ({"input": words(number), "target": f"({letter(number)})"}, f"({letter(number)})")
    ),
    "EleutherAI/drop": made("train validation", 5, drop),
    "hails/bigbench": made("default", 5, big_bench),
    "HuggingFaceH4/hhh_alignment": made("test", 5, hhh),
    "openai/gsm8k": made("train test", 6, gsm8k),
    "EleutherAI/hendrycks_math": made("train test", 5, math),
    "GBaker/MedQA-USMLE-4-options-hf": made("train validation test", 5, medqa),
    "openlifescienceai/medmcqa": made("train validation", 5, medmcqa),
    "HPAI-BSC/CareQA": made("test", 5, careqa),
    "bigbio/pubmed_qa": made("train validation test", 6, pubmedqa),
    "truthfulqa/truthful_qa": made("validation", 4, truthful),
    "aps/super_glue": made("train validation", 7, boolq),
    "Rowan/hellaswag": made("train validation", 5, hellaswag),
    "allenai/openbookqa": made("train validation test", 5, openbookqa),
    "google-research-datasets/nq_open": made("train validation", 7, nq_open),
    "takala/financial_phrasebank": made("train", 24, phrase_bank),
    "pauri32/fiqa-2018": made("train validation test", 20, fiqa),
    "zeroshot/twitter-financial-news-sentiment": made("train validation", 9, tfns),
    "oliverwang15/news_with_gpt_instructions": made("train test", 14, nwgi),
    "apergo-ai/CRASS-data-set": made("train test", 6, lambda number: crass(number % 6)),
    "neulab/conala": made("train test", 4, conala),
    "google/code_x_glue_tc_text_to_code": made("train validation", 4, concode),
    "stanfordnlp/imdb": made("train test", 6, imdb),
    "google/civil_comments": made("train test", 6, civil),
    "deepmind/narrativeqa": made("train test", 6, narrative),
    "allenai/quac": made("train validation", 6, quac),
    "EdinburghNLP/xsum": made("train test", 6, xsum),
    "abisee/cnn_dailymail": made("train test", 6, news),
    "ought/raft": made("train", 20, raft, RAFT),
}


def load_dataset(path: str, name: str | None = None, **options: Any) -> datasets.DatasetDict:
    """Stands for `datasets.load_dataset`, as lm-eval calls it. No script of the hub may be asked for."""
    assert "trust_remote_code" not in options
    files: Mapping[str, str] = options.get("data_files", {})
    found = MADE[path] if path in MADE else _by_files(files.values())
    loaded = found.loaded()
    if files:
        loaded = datasets.DatasetDict({split: loaded[split] for split in files})
    if "split" not in options:
        return loaded
    return datasets.DatasetDict({name: _joined(loaded, parts) for name, parts in options["split"].items()})


def _joined(loaded: datasets.DatasetDict, parts: str) -> datasets.Dataset:
    """The parts that "train[:9]+test" names, each once, and whole: made sets are small."""
    names = dict.fromkeys(part.partition("[")[0] for part in parts.split("+"))
    return datasets.concatenate_datasets([loaded[name] for name in names])


def _by_files(files: Iterable[str]) -> Made:
    names = {name for file in files for name in MADE if f"/{name}/" in file or f"/{name}@" in file}
    (name,) = names
    return MADE[name]
