"""Edits of words and their F0.5, by hand."""

from __future__ import annotations

import random
import time

import pytest

from fedllm_bench.metrics.edits import MAX_WORDS, EditCounts, agreement, copied, edits, is_correction, words

# --- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He go home.", ["He", "go", "home", "."]),
        ("П'ять об’єктів — по-перше", ["П'ять", "об’єктів", "—", "по-перше"]),
        ('"Ні", - сказав', ['"', "Ні", '"', ",", "-", "сказав"]),
        ("北京是好。", ["北", "京", "是", "好", "。"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel marks belong to their words
        ("  \n ", []),
    ],
)
def test_words_are_written_words_and_single_marks(text, expected):
    assert words(text) == expected


# --- edits


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("He go home .", "He goes home .", [(1, 2, ("goes",))]),
        ("He go home", "He go home now", [(3, 3, ("now",))]),
        ("He do go home", "He go home", [(1, 2, ())]),
        ("a b c d", "a x y d", [(1, 2, ("x",)), (2, 3, ("y",))]),  # as many words: one edit each
        ("a b c d", "a x d", [(1, 3, ("x",))]),  # fewer: one edit
        ("a b", "a b", []),
        ("", "a b", [(0, 0, ("a", "b"))]),
        ("a b", "", [(0, 2, ())]),
    ],
)
def test_edits_by_hand(source, target, expected):
    assert edits(words(source), words(target)) == expected


def test_edits_make_the_target_of_the_source():
    rng = random.Random(0)
    for _ in range(300):
        source, target = ([rng.choice("abcde") for _ in range(rng.randrange(12))] for _ in range(2))
        made = list(source)
        for start, end, new in reversed(edits(source, target)):
            made[start:end] = new
        assert made == target


# --- F0.5


@pytest.mark.parametrize(
    ("right", "wrong", "missing", "expected"),
    [
        (0, 0, 0, 1.0),  # neither changes anything
        (0, 0, 2, 0.0),  # a copy
        (0, 3, 0, 0.0),  # what was right was changed
        (0, 3, 2, 0.0),
        (2, 0, 0, 1.0),
        (1, 1, 0, 1.25 * 0.5 / (0.25 * 0.5 + 1)),  # 0.556: half of its edits are wrong
        (1, 0, 1, 1.25 * 0.5 / (0.25 + 0.5)),  # 0.833: half of the user's are missing
        (2, 1, 2, 1.25 * (2 / 3) * 0.5 / (0.25 * (2 / 3) + 0.5)),
    ],
)
def test_f_half_by_hand(right, wrong, missing, expected):
    assert EditCounts(right, wrong, missing).f_half == pytest.approx(expected)


def test_f_half_is_that_of_the_counts():
    """(1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP), wherever there is a right edit."""
    for right, wrong, missing in [(r, w, m) for r in range(1, 5) for w in range(5) for m in range(5)]:
        expected = 1.25 * right / (1.25 * right + 0.25 * missing + wrong)
        assert EditCounts(right, wrong, missing).f_half == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("He goes home every day.", EditCounts(2, 0, 0)),
        ("He go to home every days.", EditCounts(0, 0, 2)),  # a copy
        ("He goes home every days.", EditCounts(1, 0, 1)),
        ("He went home every day.", EditCounts(1, 1, 1)),  # the right place, another word
        ("He goes to home every day.", EditCounts(1, 1, 1)),  # half an edit is another one
        ("He goes home every day. And so on", EditCounts(2, 1, 0)),  # what is said behind it is one edit more
        ("", EditCounts(0, 1, 2)),
    ],
)
def test_agreement_by_hand(answer, expected):
    """The user's edits: "go to" becomes "goes", "days" becomes "day"."""
    assert agreement("He go to home every days.", answer, "He goes home every day.") == expected


def test_an_edit_is_counted_as_often_as_it_was_made():
    assert agreement("a a", "a b a b", "a b a") == EditCounts(1, 1, 0)


# --- which rows are corrections


PROMPT = "Correct the mistakes: be careful\nHe go to home every days."


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (PROMPT, "He go to home every days."),
        ("Correct this: He go to home every days.", "He go to home every days."),
        ("He go to home every days.", "He go to home every days."),
        ("He go to home every days.\nCorrect the sentence above.", "He go to home every days."),
        ("Correct this:\n\n  He go to home: every days.  ", "He go to home: every days."),
    ],
)
def test_the_sentence_is_found_in_the_prompt(prompt, sentence):
    assert copied(prompt, "He goes home every day.")[0] == sentence
    assert is_correction(prompt, "He goes home every day.")


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is the capital of France?", "Paris."),
        ("Write a text about a beautiful story", "There was a girl who lived near the sea."),
        ("Correct this: It is fully impossible.", "No way."),
        ("", "anything"),
        ("anything", ""),
    ],
)
def test_other_rows_are_no_corrections(prompt, answer):
    assert not is_correction(prompt, answer)


def test_half_of_the_words_in_common_is_enough():
    assert copied("a b c d", "a b x y")[1] == 0.5
    assert is_correction("a b c d", "a b x y")
    assert not is_correction("a b c d", "a x y z")


def test_long_prompts_take_no_time_and_are_no_corrections():
    text = "word and " * MAX_WORDS
    start = time.process_time()
    assert not is_correction(text, text)
    assert not is_correction("line: one\n" * 20_000, "a " * MAX_WORDS)
    assert time.process_time() - start < 5
