"""ROUGE-L, chrF and embedding similarity: by hand, against a plain table, and in scripts beyond Latin."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.metrics import references as rm
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.metrics.chrf import chrf


def table_lcs(a, b):
    """The textbook table."""
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in itertools.product(range(len(a)), range(len(b))):
        rows[i + 1][j + 1] = rows[i][j] + 1 if a[i] == b[j] else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@pytest.mark.parametrize("seed", range(50))
def test_common_subsequence_equals_the_table(seed):
    draw = random.Random(seed)
    a, b = ([draw.choice("abcd") for _ in range(draw.randrange(40))] for _ in range(2))
    assert rm.common_subsequence(a, b) == table_lcs(a, b)


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        # Lin (2004), section 3.1
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("The cat.", "the CAT", 1.0),
        ("", "the cat", 0.0),
        ("dog", "cat", 0.0),
        ("the cat sat", "the cat", 2 * 2 / 5),
        ("北京是中国的首都", "中国的首都是北京", 2 * 5 / 16),  # common: 中国的首都
        ("北京。", "北京", 1.0),
        ("الْعَاصِمَةُ هِيَ بارِيس", "العاصمة هي باريس", 1.0),  # vowel marks may be left out
        ("العـــاصمة هي لندن", "العاصمة هي باريس", 2 / 3),
        ("భారతదేశ రాజధాని ఢిల్లీ", "భారతదేశ రాజధాని న్యూఢిల్లీ.", 2 / 3),
        ("Столица — Париж!", "столица: париж", 1.0),
        ("Ⅳ ｃａｔ", "iv cat", 1.0),
    ],
)
def test_rouge_l_by_hand(answer, reference, value):
    assert rm.rouge_l(answer, reference) == pytest.approx(value)
    assert rm.rouge_l(reference, answer) == pytest.approx(value)


def test_tokens_are_words_where_there_are_spaces_and_letters_where_there_are_none():
    assert rm.tokens("Don't stop: 3.5 km") == ["don", "t", "stop", "3", "5", "km"]
    assert rm.tokens("我爱Python编程3") == ["我", "爱", "python", "编", "程", "3"]
    assert rm.tokens("క్షమించండి, నేను") == ["క్షమించండి", "నేను"]  # vowel signs and viramas stay within the word
    assert rm.tokens("న్యూ\u200cఢిల్లీ") == ["న్యూఢిల్లీ"]


def test_chrf_by_hand_and_for_equal_and_unlike_texts():
    assert chrf("北京", "北京") == pytest.approx(100)
    assert chrf("xyz", "北京") == 0
    assert chrf("", "abc") == 0
    # "ab" against "abc": 1-grams P 1, R 2/3; 2-grams P 1, R 1/2; effective order 2 -> P 1, R 7/12, F2 = 5PR/(4P + R)
    assert chrf("ab", "abc") == pytest.approx(100 * 5 * (7 / 12) / (4 + 7 / 12), abs=0.01)


def answered(texts):
    return {
        item: Answer(item_id=item, prompt_hash="x", turns=(text,), tokens=(1,), finish=(finish,))
        for item, (text, finish) in texts.items()
    }


PROMPTS = [
    Prompt(item_id=str(i), turns=("?",), references=(reference,)) for i, reference in enumerate(("a b", "c", "d"))
]


def test_failed_missing_and_huge_answers_are_unscored_and_an_empty_one_is_zero():
    answers = answered({"0": ("", "stop"), "1": ("", "failed")})
    scores = rm.closeness_scores([*PROMPTS, Prompt(item_id="9", turns=("no reference",))], answers, rm.rouge_l)
    assert [(s.value, s.reason) for s in scores] == [(0.0, ""), (None, "the answer failed"), (None, "no answer")]
    huge = answered({"0": ("a " * 500_000, "length")})
    started = time.process_time()
    for closeness in (rm.rouge_l, chrf):
        (score,) = rm.closeness_scores(PROMPTS[:1], huge, closeness)
        assert score.value is None
        assert "100000 characters" in score.reason
    assert time.process_time() - started < 1


def stub_encoder(texts):
    """Unit vectors of how many a, b, c, d a text has."""
    counts = np.asarray([[text.count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_embedding_similarity_is_the_cosine_of_each_answer_with_its_own_reference():
    answers = answered({"0": ("a", "stop"), "1": ("c c", "stop"), "2": ("", "failed")})
    scores = rm.embedding_scores(PROMPTS, answers, stub_encoder)
    assert [s.value for s in scores] == [pytest.approx(2**-0.5), pytest.approx(1.0), None]
    assert scores[2].reason == "the answer failed"


def test_without_an_embedding_model_every_item_is_unscored_and_says_what_to_give():
    scores = rm.embedding_scores(PROMPTS, answered({"0": ("a", "stop")}), None)
    assert {(s.value, s.reason) for s in scores} == {(None, "no embedding model; give --embedding-model")}
    assert len(scores) == 3


def test_an_encoder_of_sentence_transformers_is_loaded_from_a_folder(tiny_folder, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    words = Transformer(str(tiny_folder))
    SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())]).save(str(tmp_path / "encoder"))
    vectors = rm.load_encoder(str(tmp_path / "encoder"))(["a b", "c", "a b"])
    assert vectors.shape == (3, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[2] == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.999


def test_an_embedding_model_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(UserError, match=r"cannot load the embedding model .*--embedding-model"):
        rm.load_encoder(str(tmp_path / "nowhere"))
