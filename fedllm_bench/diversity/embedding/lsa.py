"""Latent semantic analysis of character n-grams (Deerwester et al., 1990): vectors of any language, with no model.

It sees which letters stand together, so languages, scripts and shared words, and little of what texts mean. The vectors
depend on all texts that they are computed with: those of two splits cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.diversity.embedding.cache import ValueCache, key

Floats = NDArray[np.float32]

LSA = "lsa"
MAX_CHARACTERS = 1000  # about what 256 tokens hold; the rest of a longer text is not read
DIMENSIONS = 128
N_GRAMS = (1, 3)  # of letters within words; three letters are two syllables of Chinese, half a word of others
MAX_FEATURES = 30_000  # the most frequent n-grams: memory does not grow with the alphabet
POWER_ITERATIONS = 4
VERSION = "1"


def lsa_vectors(texts: Sequence[str], seed: int, cache: ValueCache | None = None) -> Floats:
    """Vectors of distinct texts, shape (n, at most 128), of length 1, or 0 where a text has no known n-gram.

    The same for the same texts in the same order and seed, on one kind of machine.
    """
    name = key(LSA, VERSION, str(seed), *texts)
    found = cache.get_many([name]) if cache else {}
    if name in found:
        return found[name]
    vectors = _computed(texts, seed)
    if cache:
        cache.put_many({name: vectors})
    return vectors


def _computed(texts: Sequence[str], seed: int) -> Floats:
    # not at the top: scikit-learn takes a second to load
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    weights = TfidfVectorizer(
        analyzer="char_wb", ngram_range=N_GRAMS, max_features=MAX_FEATURES, sublinear_tf=True, dtype=np.float32
    )
    try:
        table = weights.fit_transform([text[:MAX_CHARACTERS] for text in texts])
    except ValueError:  # no text has a character that is not a space
        return np.zeros((len(texts), 1), dtype=np.float32)
    svd = TruncatedSVD(min(DIMENSIONS, *table.shape), n_iter=POWER_ITERATIONS, random_state=seed % 2**32)
    # threads would add the floats in another order each time; of equal texts a share of variance is 0/0, and not used
    with threadpool_limits(1), np.errstate(divide="ignore", invalid="ignore"):
        vectors: Floats = normalize(svd.fit_transform(table)).astype(np.float32)
    return vectors
