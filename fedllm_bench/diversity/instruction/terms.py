"""Terms that tell topics apart, in every language: c-TF-IDF over words, and over pairs of letters without spaces."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import regex
from numpy.typing import NDArray
from scipy import sparse

from fedllm_bench.evaluation.metrics.references import OPTIONAL, TOKEN
from fedllm_bench.metrics.edits import UNSPACED

LETTERS = 20_000  # of a text that are read; what a row is about stands before
UNSPACED_START = regex.compile(rf"[{UNSPACED}]")
HAS_LETTER = regex.compile(r"\p{L}")
COMMON = 0.2  # a term in a larger share of a language's prompts is a word of the language and not of a topic
ENOUGH = 20  # prompts of a language, to say so


def terms_of(text: str) -> list[str]:
    """Words of two letters and more without case; in scripts without spaces, each two letters that stand together."""
    folded = unicodedata.normalize("NFKC", OPTIONAL.sub("", text[:LETTERS])).casefold()
    found: list[str] = []
    before, end_before = "", -1
    for match in TOKEN.finditer(folded):
        word, (start, end) = match.group(), match.span()
        unspaced = UNSPACED_START.match(word) is not None
        if unspaced and before and start == end_before:
            found.append(before + word)
        elif not unspaced and len(word) > 1 and HAS_LETTER.search(word):
            found.append(word)
        before, end_before = (word if unspaced else ""), end
    return found


def c_tf_idf(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Weight of each term in each class, shape (classes, terms), from counts of that shape.

    Grootendorst, 2022 (arXiv:2203.05794), section 3.3:  W_tc = tf_tc log(1 + A / tf_t), with tf_tc how often t is in
    the texts of class c, tf_t how often in all, and A the mean number of terms of a class.
    """
    totals = np.asarray(counts.sum(axis=0), dtype=float).ravel()
    mean_length = totals.sum() / counts.shape[0]
    idf = np.log1p(mean_length / np.maximum(totals, 1))
    return sparse.csr_matrix(counts.multiply(idf))


def class_terms(
    texts: Sequence[Sequence[str]], labels: NDArray[np.intp], banned: frozenset[str] = frozenset(), most: int = 8
) -> list[list[str]]:
    """The `most` best terms of each class; `texts` are lists of terms, `labels` 0 to classes - 1.

    A term that only one text of its class has comes last: it tells of that text. Ties are in the order of letters.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    within = [Counter[str]() for _ in range(classes)]
    seen_in = [Counter[str]() for _ in range(classes)]
    for terms, label in zip(texts, labels, strict=True):
        within[label].update(terms)
        seen_in[label].update(set(terms))
    vocabulary = sorted(set().union(*within)) if within else []
    weights = c_tf_idf(_matrix(within, vocabulary)).toarray() if vocabulary else np.zeros((classes, 0))
    found = []
    for label in range(classes):
        order = np.argsort(-weights[label], kind="stable")
        best = [vocabulary[i] for i in order[: most * 50] if weights[label, i] > 0]
        best.sort(key=lambda term: (term in banned, seen_in[label][term] < 2))  # stable: else by weight
        found.append(best[:most])
    return found


def _matrix(within: Sequence[Counter[str]], vocabulary: Sequence[str]) -> sparse.csr_matrix:
    place = {term: i for i, term in enumerate(vocabulary)}
    cells = [(label, place[term], n) for label, counts in enumerate(within) for term, n in counts.items()]
    rows, columns, values = (np.array(part) for part in zip(*cells, strict=True))
    return sparse.csr_matrix((values.astype(float), (rows, columns)), shape=(len(within), len(vocabulary)))


def common_terms(texts: Iterable[Sequence[str]], languages: Iterable[str]) -> frozenset[str]:
    """Terms in more than a fifth of the prompts of a language: its function words, and phrases that all of them share.

    Equal prompts count once: what many users were asked alike is no word of the language for that.
    """
    rows: Counter[str] = Counter()
    having: dict[str, Counter[str]] = {}
    for language, terms in dict.fromkeys((lang, tuple(own)) for own, lang in zip(texts, languages, strict=True)):
        rows[language] += 1
        having.setdefault(language, Counter()).update(set(terms))
    return frozenset(
        term
        for language, counts in having.items()
        if rows[language] >= ENOUGH
        for term, n in counts.items()
        if n > COMMON * rows[language]
    )
