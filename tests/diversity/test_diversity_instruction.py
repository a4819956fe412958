"""Topics, their terms and root verbs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import adjusted_rand_score

from fedllm_bench.diversity.instruction import verbs
from fedllm_bench.diversity.instruction.instruction import instruction_section, shared_bits
from fedllm_bench.diversity.instruction.terms import c_tf_idf, class_terms, common_terms, terms_of
from fedllm_bench.diversity.instruction.topics import find_topics, topic_entries
from fedllm_bench.diversity.instruction.verbs import VerbAndObject, asked_in, verb_entries
from fedllm_bench.diversity.rows import DiversityRow

SETTINGS = SimpleNamespace(seed=0)
WORDS = {"cook": ("soup", "salt", "oven"), "travel": ("train", "ticket", "hotel"), "code": ("loop", "bug", "class"),
         "sport": ("ball", "team", "goal")}  # fmt: skip


def row(client: str, prompt: str, language: str = "eng", i: int = 0) -> DiversityRow:
    return DiversityRow(
        client=client, row_id=f"{client}-{i}", language=language, source="s", prompt=prompt, completion="x"
    )


def blobs(rows_each: int, clients: int = 4, seed: int = 0):
    """Rows about four things that lie apart, and what each is about."""
    rng = np.random.default_rng(seed)
    rows, vectors, about = [], [], []
    for topic, words in enumerate(WORDS.values()):
        centre = np.eye(8)[topic]
        for _ in range(rows_each):
            said = " ".join(rng.choice(words, 3))
            rows.append(row(f"c{rng.integers(clients)}", f"please tell me the {said}", i=len(rows)))
            point = centre + rng.normal(0, 0.08, size=8)
            vectors.append(point / np.linalg.norm(point))
            about.append(topic)
    return rows, np.array(vectors, dtype=np.float32), np.array(about)


def test_c_tf_idf_is_that_of_the_paper_by_hand():
    counts = sparse.csr_matrix(np.array([[3.0, 1.0, 0.0], [1.0, 0.0, 5.0]]))  # A = 10 / 2
    expected = [[3 * math.log(1 + 5 / 4), math.log(1 + 5 / 1), 0], [math.log(1 + 5 / 4), 0, 5 * math.log(1 + 5 / 5)]]
    np.testing.assert_allclose(c_tf_idf(counts).toarray(), expected)


def test_terms_and_their_order_are_those_of_scikit_learns_counts():
    texts = ["soup salt soup the", "oven the soup", "train the ticket", "ticket hotel ticket the"]
    labels = np.array([0, 0, 1, 1])
    joined = [" ".join(text for text, label in zip(texts, labels, strict=True) if label == c) for c in (0, 1)]
    vectorizer = CountVectorizer()
    counts = vectorizer.fit_transform(joined).toarray().astype(float)
    weights = counts * np.log(1 + counts.sum() / 2 / counts.sum(axis=0))
    words = vectorizer.get_feature_names_out()
    found = class_terms([terms_of(text) for text in texts], labels)
    for c in (0, 1):
        often = [w for w in words if sum(w in texts[i].split() for i in np.flatnonzero(labels == c)) > 1]
        best = max(often, key=lambda w: weights[c, list(words).index(w)])
        assert found[c][0] == best
    assert found[0][0] == "soup"
    assert found[1][0] == "ticket"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, the WORLD 42!", ["hello", "the", "world"]),
        ("颜色很好", ["颜色", "色很", "很好"]),
        ("颜 色", []),  # letters apart are no pair
        ("我用Python写", ["我用", "python"]),
        ("భాష క్షమించు", ["భాష", "క్షమించు"]),  # marks stay with their letters
        ("اللَّوْن", ["اللون"]),  # vowel marks may be left out
        ("Привет, мир", ["привет", "мир"]),
        ("", []),
    ],
)
def test_terms_in_scripts_with_and_without_spaces(text, expected):
    assert terms_of(text) == expected


def test_a_fifth_of_the_rows_of_a_language_makes_a_term_common_there_and_few_rows_make_none():
    texts = [["the", f"w{i}"] for i in range(20)] + [["die", "wort"]] * 3
    assert common_terms(texts, ["eng"] * 20 + ["deu"] * 3) == {"the"}
    asked_alike = [["marriage", "law"]] * 100  # one prompt of the twenty, however many users answered it
    assert common_terms([*texts, *asked_alike], ["eng"] * 20 + ["deu"] * 3 + ["eng"] * 100) == {"the"}


def test_topics_are_found_numbered_by_size_and_named_by_what_tells_them_apart():
    rows, vectors, about = blobs(40)
    found = find_topics(vectors, seed=0)
    assert adjusted_rand_score(about, found.labels) > 0.99
    entries = topic_entries(rows, vectors, found, seed=0)
    assert [entry["id"] for entry in entries] == ["0", "1", "2", "3"]
    assert sum(entry["rows"] for entry in entries) == len(rows)
    for entry in entries:
        topic = about[np.flatnonzero(found.labels == int(entry["id"]))[0]]
        assert set(entry["terms"][:3]) == set(list(WORDS.values())[topic])  # not "please tell me the"
        assert sum(part["rows"] for part in entry["inner"]) in (0, entry["rows"])


def test_topics_depend_on_nothing_but_vectors_and_seed():
    _, vectors, _ = blobs(30)
    first, second = find_topics(vectors, seed=3), find_topics(vectors.copy(), seed=3)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.rule == second.rule


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_few_or_equal_rows_are_one_topic_or_few(count):
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (count, 1))
    section = instruction_section([row("a", "soup", i=i) for i in range(count)], vectors, SETTINGS, {})
    assert [topic["rows"] for topic in section["topics"]] == [count]
    assert section["topic_entropy"] == 0
    assert section["mutual_information"] == pytest.approx(0)


def test_clients_alike_share_no_bits_with_topics_and_clients_of_one_topic_all_of_them():
    rng = np.random.default_rng(0)
    topics = rng.integers(4, size=600)
    values = [shared_bits(rng.integers(100, size=600), topics) for _ in range(20)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(20) + 1e-9  # the plain estimate is about 0.35
    assert shared_bits(topics, topics) == pytest.approx(2, abs=0.05)


def test_the_section_conserves_rows_over_topics_and_clients():
    rows, vectors, _ = blobs(30)
    section = instruction_section(rows, vectors, SETTINGS, {})
    assert section["method"] == "topics"
    per_topic: dict[str, int] = {}
    for own in section["clients"].values():
        for topic, n in own["topics"].items():
            per_topic[topic] = per_topic.get(topic, 0) + n
    assert per_topic == {topic["id"]: topic["rows"] for topic in section["topics"]}
    assert section["computed_on"]["rows"] == len(rows)
    assert section["computed_on"]["clients"] == len({r.client for r in rows})


# ---- root verbs, with documents as spaCy gives them


def token(lemma, pos="NOUN", dep="dep", *children):
    return SimpleNamespace(lemma_=lemma, pos_=pos, dep_=dep, children=children)


def document(root):
    def walk(one):
        yield one
        for child in one.children:
            yield from walk(child)

    return list(walk(root))


@pytest.mark.parametrize("relation", ["dobj", "obj"])
def test_the_verb_and_its_direct_object(relation):
    root = token("Write", "VERB", "ROOT", token("please", "INTJ"), token("Essay", "NOUN", relation))
    assert asked_in(document(root)) == VerbAndObject("write", "essay")


def test_a_verb_below_a_root_that_is_none_and_a_prompt_without_verbs():
    root = token("thing", "NOUN", "ROOT", token("make", "VERB", "acl", token("cake", "NOUN", "obj")))
    assert asked_in(document(root)) == VerbAndObject("make", "cake")
    assert asked_in(document(token("hello", "INTJ", "ROOT"))) == VerbAndObject()
    assert asked_in([]) == VerbAndObject()


def stub(texts):
    """A parser of two words: a verb and its object."""
    for text in texts:
        verb, thing = text.split()[:2]
        yield document(token(verb, "VERB", "ROOT", token(thing, "NOUN", "obj")))


def test_verbs_are_drawn_where_most_rows_have_a_parser_and_topics_else():
    rows, vectors, _ = blobs(20)
    section = instruction_section(rows, vectors, SETTINGS, {"eng": stub})
    assert section["method"] == "verbs"
    assert section["verbs"] == [
        {"verb": "please", "language": "eng", "rows": 80, "objects": [{"object": "tell", "rows": 80}]}
    ]
    assert section["clients"]["c0"]["verbs"] == {"please tell": sum(r.client == "c0" for r in rows)}
    assert instruction_section(rows, vectors, SETTINGS, {"deu": stub})["method"] == "topics"


def test_verbs_of_two_languages_are_apart_and_rows_without_an_object_count():
    rows = [row("a", "x", "eng"), row("a", "x", "eng"), row("b", "x", "deu"), row("b", "x", "zho")]
    found = [VerbAndObject("go", "home"), VerbAndObject("go"), VerbAndObject("go", "heim"), None]
    entries = verb_entries(rows, found)
    assert [(entry["verb"], entry["language"], entry["rows"]) for entry in entries] == [
        ("go", "eng", 2),
        ("go", "deu", 1),
    ]
    assert entries[0]["objects"] == [{"object": "home", "rows": 1}]


def test_installed_pipelines_are_found_by_language_and_nothing_is_downloaded(monkeypatch):
    loaded = []

    def load(name):
        loaded.append(name)
        return SimpleNamespace(pipe=stub)

    names = ["en_core_web_trf", "en_core_web_sm", "es_core_news_sm"]
    spacy = SimpleNamespace(util=SimpleNamespace(get_installed_models=lambda: names), load=load)
    monkeypatch.setitem(__import__("sys").modules, "spacy", spacy)
    assert set(verbs.parsers(["eng", "spa", "tel"])) == {"eng", "spa"}
    assert loaded == ["en_core_web_sm", "es_core_news_sm"]
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)  # not installed
    assert verbs.parsers(["eng"]) == {}
