"""Topics of prompts: k-means on TF-IDF, for a Dirichlet partition over what is asked."""

from __future__ import annotations

from collections.abc import Sequence

from fedllm_bench.data.words import WORD

TOPICS = 20  # enough that Dirichlet shares of them differ between clients, and far more rows than topics
MAX_WORDS = 5000  # the most frequent ones: memory does not grow with the vocabulary


def topics(prompts: Sequence[str], seed: int, most: int = TOPICS) -> list[str]:
    """The topic of each prompt, "topic-00" to at most `most`; no more topics than prompts that differ in words.

    The same for the same prompts in the same order: the caller sorts them.
    """
    num_topics = min(most, len({tuple(sorted(found)) for prompt in prompts if (found := _words(prompt))}))
    if num_topics < 2:
        return ["topic-00"] * len(prompts)
    # not at the top: scikit-learn takes a second to load, and draws from the global generator when it does
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    vectors = TfidfVectorizer(analyzer=_words, max_features=MAX_WORDS, sublinear_tf=True).fit_transform(prompts)
    with threadpool_limits(1):  # threads would add the floats in another order each time
        found = KMeans(n_clusters=num_topics, n_init=1, random_state=seed % 2**32).fit_predict(vectors)
    return [f"topic-{topic:02d}" for topic in found.tolist()]


def _words(text: str) -> list[str]:
    return list(WORD.findall(text.casefold()))
