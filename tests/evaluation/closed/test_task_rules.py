"""The rules of our own task files: splits, labels, prompts, what is read out of an answer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from closed_rows import MADE, mark
from sklearn.metrics import f1_score

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed import tasks
from fedllm_bench.evaluation.closed.tasks import crass, finance, flowertune, fsllm, helm, said, written_code
from fedllm_bench.evaluation.closed.tasks.columns import one_of, part, right_answer, text

Dataset = datasets.Dataset


def rows(number: int, **columns: Any) -> Dataset:
    return Dataset.from_list([{name: cell(place) for name, cell in columns.items()} for place in range(number)])


def test_the_splits_have_the_published_sizes() -> None:
    phrases = rows(4846, sentence=str, label=lambda place: place % 3)
    posts = rows(1213, sentence=str, sentiment_score=lambda place: 0.5, format=lambda place: "post")
    assert finance.fpb(phrases)["text"][:] == phrases.train_test_split(seed=42)["test"]["sentence"][:]
    assert len(finance.fpb(phrases)) == len(finance.fpb_flowertune(phrases)) == 1212
    assert len(finance.fiqa(posts)) == 275
    assert len(finance.fiqa_flowertune(posts)) == 304
    assert set(finance.fpb(phrases)["text"]) == set(finance.fpb_flowertune(phrases)["text"])


def test_fiqa_s_borders_and_its_two_questions() -> None:
    scores = [-0.11, -0.1, 0.0999, 0.1]
    found = [finance._fiqa({"sentence": "s", "sentiment_score": score, "format": "news"}) for score in scores]
    assert [item["label"] for item in found] == ["negative", "neutral", "neutral", "positive"]
    assert "tweet" in finance._fiqa({"sentence": "s", "sentiment_score": 0.0, "format": "post"})["instruction"]
    assert "news" in found[0]["instruction"]


def test_nwgi_s_seven_labels_become_three() -> None:
    assert Counter(finance.NWGI_LABELS.values()) == {"negative": 2, "neutral": 3, "positive": 2}
    assert finance.NWGI_LABELS["mildly positive"] == finance.NWGI_LABELS["mildly negative"] == "neutral"


@pytest.mark.parametrize(
    ("answer", "published", "fpb", "strict"),
    [
        ("positive", "positive", "positive", "positive"),
        ("", "neutral", "neutral", ""),
        ("I cannot say.", "neutral", "neutral", ""),
        ("Positive, not negative", "positive", "negative", ""),
        ("the sentiment is NEGATIVE.", "neutral", "neutral", "negative"),
        ("Neg", "neutral", "negative", ""),
        ("Pos", "neutral", "positive", ""),
        ("Possibly neutral", "neutral", "positive", "neutral"),
        ("\n\n negative \n### Instruction: positive", "positive", "negative", "negative"),
        ("positively", "positive", "positive", ""),
        ("(neutral)", "neutral", "neutral", "neutral"),
        ("positive/negative/neutral", "positive", "negative", ""),
        ("позитивный 🎈", "neutral", "neutral", ""),
    ],
)
def test_labels_of_answers(answer: str, published: str, fpb: str, strict: str) -> None:
    got = finance.published([[answer]], None), finance.published_fpb([[answer]], None), finance.strict([[answer]], None)
    assert got == ([[published]], [[fpb]], [[strict]])


def test_f1_is_scikit_learn_s() -> None:
    right = ["negative", "neutral", "positive", "neutral", "neutral", "positive", "negative"]
    told = ["neutral", "neutral", "positive", "positive", "neutral", "negative", "negative"]
    pairs = list(zip(right, told, strict=True))
    assert finance.macro_f1(pairs) == pytest.approx(f1_score(right, told, average="macro"))
    assert finance.weighted_f1(pairs) == pytest.approx(f1_score(right, told, average="weighted"))
    assert finance.macro_f1([("neutral", ""), ("positive", "")]) == 0.0  # "" is no fourth label
    assert finance.macro_f1([("neutral", "neutral"), ("positive", "")]) == 0.5


def test_crass_shuffles_as_published_and_its_shots_have_their_answers_at_c_b_c() -> None:
    made = MADE["apergo-ai/CRASS-data-set"].loaded()["test"]
    found = crass.items(made)
    assert found[:] == crass.items(made)[:]
    assert [item["number"] for item in found] == [3, 4, 3, 4, 3, 4]
    assert len({item["letter"] for item in found}) > 1
    for item, row in zip(found, made, strict=True):
        assert f"\n{item['letter']}. {row['CorrectAnswer']}\n" in f"{item['question']}\n"
        assert item["question"].endswith("\nAnswer:")
    shots = crass.shots(made)
    assert [shot["letter"] for shot in shots] == ["C", "B", "C"]
    assert all(mark(number) in str(shot["question"]) for number, shot in enumerate(shots))


def test_the_letter_of_crass_must_come_first() -> None:
    answers = ["B. two", " C", "The answer is A", "", "b", "E"]
    assert crass.first_letter([answers], None) == [["B", "C", "", "", "", ""]]


def test_requests_of_conala_and_concode() -> None:
    cells = {"rewritten_intent": "", "intent": " do it ", "snippet": "x = [1]"}
    assert written_code.conala(Dataset.from_list([cells]))[0] == {"request": "do it", "code": "x = [1]"}
    nl = "Return it. concode_field_sep int other concode_field_sep no"
    assert written_code.concode(Dataset.from_list([{"nl": nl, "code": "c"}]))[0]["request"] == "Return it"
    assert written_code.first_line([["\n x = 1 \ny"]], None) == [["x = 1"]]


def test_bleu_of_an_item_is_between_0_and_1() -> None:
    row = {"code": "return [value for value in rows]"}
    assert written_code.scored(row, ["return [value for value in rows]"])["sentence_bleu"] == 1.0
    assert written_code.scored(row, [""])["sentence_bleu"] == 0.0
    assert 0 < float(written_code.scored(row, ["return [value for row in rows]"])["sentence_bleu"]) < 1  # type: ignore[arg-type]


def test_flowertune_s_prompt_and_its_rule() -> None:
    row = {"question": "Which one", "opa": "a", "opb": "b\nB", "opc": "c", "opd": "d", "cop": 1}
    item = flowertune.medmcqa(Dataset.from_list([row]))[0]
    assert item["prompt"].startswith("<|im_start|>question\nYou are a medical doctor answering")
    frame = "The answer is:\n<|im_end|>\n<|im_start|>answer\n"
    assert item["prompt"].endswith(f"\nQuestion: Which one?\n\nOptions:\nA. a\nB. b\nB\nC. c\nD. d\n{frame}")
    assert item["gold"] == "b"
    answers = ["B", " b)", "**B**", "\n## C", "", "yes", "Foo", "Both"]
    assert flowertune.letter([answers], None) == [["b", "b", "b", "c", "", "yes", "foo", "b"]]
    assert flowertune.decision([["Yes.", "no", "maybe", "Yes it is", ""]], None) == [
        ["yes", "no", "maybe", "yes it is", ""]
    ]
    assert flowertune.scored(item, ["b"]) == {"acc": 1.0, "unparsable": 0.0}
    assert flowertune.scored(item, ["yes"]) == {"acc": 0.0, "unparsable": 1.0}
    assert flowertune.scored({"gold": "yes"}, ["yes it is"]) == {"acc": 0.0, "unparsable": 1.0}


def test_flowertune_s_categories_share_no_subject() -> None:
    assert [len(part) for part in (flowertune.STEM, flowertune.SOCIAL_SCIENCES, flowertune.HUMANITIES)] == [19, 12, 13]
    assert len({*flowertune.STEM, *flowertune.SOCIAL_SCIENCES, *flowertune.HUMANITIES}) == 44


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("Two and two. The answer is 4. So 5.", "4"),
        ("the ANSWER IS $1,234.00 dollars", "1234.00"),
        ("First 3, then 7.", "7"),
        ("The answer is unknown. It was 3.", "3"),
        ("The answer is none; the answer is 9", ""),
        ("-12 degrees", "-12"),
        ("", ""),
        ("no digits", ""),
    ],
)
def test_federatedscope_s_number(answer: str, number: str) -> None:
    assert fsllm.stated_number([[answer]], None) == [[number]]


def test_federatedscope_s_examples_are_the_eight_of_lm_eval() -> None:
    assert len(fsllm.examples()) == 8
    assert all("The answer is" in example["target"] for example in fsllm.examples())


def test_helm_s_scores() -> None:
    assert said.quasi_exact(" The Answer. ", "answer") == 1.0
    assert said.quasi_exact("", "answer") == 0.0
    assert said.word_f1("a red house", "the red door") == pytest.approx(0.5)
    assert said.word_f1("", "the") == 0.0
    assert said.rouge_2("one two three", "one two four") == pytest.approx(0.5)
    assert said.f1_scored({"answers": ["x", "red house"]}, ["red house"]) == {"f1": 1.0}


def test_raft_has_10_of_its_50_rows_as_items_and_no_row_twice() -> None:
    features = datasets.Features(
        {"Text": datasets.Value("string"), "Label": datasets.ClassLabel(names=["U", "x", "y"])}
    )
    labelled = Dataset.from_list(
        [{"Text": str(place), "Label": 1 + place % 2} for place in range(50)], features=features
    )
    items, shots = helm.raft(labelled), helm.raft_shots(labelled)
    assert (len(items), len(shots)) == (10, 40)
    assert not set(items["question"]) & set(shots["question"])
    assert items[0]["head"] == "Possible labels:\n1. x\n2. y\n\n"
    named = helm.raft(Dataset.from_list([{"Text": str(place), "Label": "b" if place else "a"} for place in range(10)]))
    assert named[0]["head"] == "Possible labels:\n1. a\n2. b\n\n"
    with pytest.raises(UserError, match="no names of its labels"):
        helm.raft(Dataset.from_list([{"Text": "a", "Label": 1}]))


def test_quac_asks_one_turn_and_shows_those_before() -> None:
    made = MADE["allenai/quac"].loaded()["validation"]
    found = [item["question"] for item in helm.quac(made)]
    assert found == [item["question"] for item in helm.quac(made)]
    later = [question for question in found if question.endswith("Question: why? 漢\nAnswer:")]
    assert later
    assert all("Question: who?\nAnswer: because" in question for question in later)


def test_what_a_row_lacks_is_one_line() -> None:
    with pytest.raises(UserError, match="no column 'sentence', but 'text', 'label': it was changed upstream"):
        finance.fpb(Dataset.from_list([{"text": "a", "label": 1}] * 8))
    with pytest.raises(UserError, match="column 'sentence' holds None"):
        finance.fpb(Dataset.from_list([{"sentence": None, "label": 1}] * 8))
    with pytest.raises(UserError, match="column 'label' holds 3; it can be 0, 1, 2"):
        finance.tfns(Dataset.from_list([{"text": "a", "label": 3}]))
    with pytest.raises(UserError, match=r"column 'label' holds \[1\]"):
        one_of({"label": [1]}, "label", {1: "a"})
    with pytest.raises(UserError, match="column 'cop' holds 0; it can be 1 to 4"):
        right_answer({"cop": 0}, "cop", 4, first=1)
    with pytest.raises(UserError, match="column 'cop' holds True"):
        right_answer({"cop": True}, "cop", 4)
    with pytest.raises(UserError, match=r"column 'a\.b' has no parts, but holds None"):
        part({"a": None}, "a.b")
    with pytest.raises(UserError, match=r"too few rows \(1\) to take a share of 0\.25"):
        finance.fpb(Dataset.from_list([{"sentence": "a", "label": 1}]))
    assert text({"a": ""}, "a") == ""


def test_parts_of_a_split_are_joined_and_cut_by_datasets_itself(tmp_path: Path) -> None:
    """fiqa.yaml and imdb.yaml name parts so."""
    for split, first in (("train", 0), ("validation", 10), ("test", 20)):
        lines = (json.dumps({"n": number}) for number in range(first, first + 3))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    wanted = {"all": "train+validation+test", "ends": "train[:1]+train[-1:]", "few": "test[:1000]"}
    found = datasets.load_dataset("json", data_files=files, split=wanted, cache_dir=str(tmp_path / "cache"))
    assert found["all"]["n"][:] == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert found["ends"]["n"][:] == [0, 2]
    assert found["few"]["n"][:] == [20, 21, 22]


def test_no_task_file_trusts_code_of_a_data_set() -> None:
    files = [path for path in tasks.FOLDER.iterdir() if path.suffix == ".yaml" or path.name.endswith("_yaml")]
    assert len(files) > 40
    for path in files:
        assert "trust_remote_code" not in path.read_text(encoding="utf-8")
