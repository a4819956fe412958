"""How unlike a model's answers are to each other, and the clients' answers to one prompt, with and without a model.

Three measures of one model's answers are means over pairs of answers to two different questions in one language, so
that they do not hang on how many questions were asked, as shares over a whole collection do. The score of a question
is the mean over its pairs; the mean over the questions of a language is that over its pairs (a U-statistic of degree
2: Hoeffding, 1948), for which views.pseudo_values makes the intervals. Only the first turn is looked at, without its
thoughts.

    distinct-n   distinct n-grams of two answers taken together over all their n-grams (Li et al., 2016)
    self-BLEU    BLEU of one answer with the other as its reference (Zhu et al., 2018), sampled pairs
    spread       1 - cosine of the two answers' embeddings
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedllm_bench.evaluation.metrics.references import Encoder, rouge_l, tokens, why_not
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.evaluation.thoughts import first_said
from fedllm_bench.scores.score import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST = 3  # answers in one language; the spread of fewer has no interval
PARTNERS = 5  # of each answer in self-BLEU; each is as often the reference as it is the hypothesis
CLIENT = "client-"
FEW = f"fewer than {LEAST} answers in its language"
Among = Callable[[Sequence[str]], "NDArray[np.float64]"]  # texts of one language -> of each the mean over its pairs


def among_scores(prompts: Sequence[Prompt], answers: Mapping[str, Answer], measure: Among) -> list[Score]:
    """A score for each prompt in whose language at least LEAST were asked; others are no part of the metric.

    An answer without words is an answer: two of them are as alike as can be. One that failed is unscored.
    """
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for pool in _pools(prompts):
        missing = {prompt.item_id: why_not(answers.get(prompt.item_id)) for prompt in pool}
        whole = [item for item, reason in missing.items() if not reason]
        enough = len(whole) >= LEAST
        reasons |= {item: reason or FEW for item, reason in missing.items() if reason or not enough}
        if enough:
            found = measure([first_said(answers[item]).text for item in whole])
            values |= dict(zip(whole, map(float, found), strict=True))
    asked = [p.item_id for p in prompts if p.item_id in values or p.item_id in reasons]
    return [Score(item, values.get(item), reasons.get(item, ""), cluster=item) for item in asked]


def _pools(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts by language in an order by chance that is equal in all runs, so that neighbours are no near questions."""
    pools: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.item_id.encode()).digest()):
        pools.setdefault(prompt.language, []).append(prompt)
    return [pool for pool in pools.values() if len(pool) >= LEAST]


def unscored(prompts: Sequence[Prompt], reason: str) -> list[Score]:
    """What :func:`among_scores` would score, with a reason why it is not."""
    asked = {prompt.item_id for pool in _pools(prompts) for prompt in pool}
    return [Score(p.item_id, None, reason, cluster=p.item_id) for p in prompts if p.item_id in asked]


def distinct(n: int) -> Among:
    """Distinct n-grams of a pair over its n-grams, 0 to 1; an answer of fewer than n words is one n-gram."""

    def measure(texts: Sequence[str]) -> NDArray[np.float64]:
        import numpy as np

        grams = [_grams(tokens(text), n) for text in texts]
        lengths, found = np.array([len(of) for of in grams]), _occurrence(grams)
        own = np.asarray(found.sum(axis=1)).ravel()
        union = own[:, None] + own[None] - (found @ found.T).toarray()
        return _over_others(union / (lengths[:, None] + lengths[None]))

    return measure


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]


def _occurrence(grams: Sequence[Sequence[tuple[str, ...]]]) -> Any:
    """1 where an answer has an n-gram, sparse of shape (answers, distinct n-grams)."""
    import numpy as np
    from scipy.sparse import csr_array

    place: dict[tuple[str, ...], int] = {}
    columns = [sorted({place.setdefault(gram, len(place)) for gram in of}) for of in grams]
    starts = np.cumsum([0, *map(len, columns)])
    flat = np.array([column for of in columns for column in of], dtype=np.int64)
    return csr_array((np.ones(len(flat)), flat, starts), shape=(len(grams), len(place)))


def _over_others(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of values of all pairs, (answers, answers), the mean of each row without itself."""
    mean: NDArray[np.float64] = (pairs.sum(axis=1) - pairs.diagonal()) / (len(pairs) - 1)
    return mean


def self_bleu(texts: Sequence[str]) -> NDArray[np.float64]:
    """BLEU of pairs, 0 to 100; lower is more diverse. Each answer is in up to 2 * PARTNERS pairs, half of them as the
    hypothesis: in a circle, with the next ones. With 2 * PARTNERS + 1 answers or fewer these are all pairs once.
    """
    import numpy as np

    words = [" ".join(tokens(text)) for text in texts]
    count = len(words)
    partners = min(PARTNERS, (count - 1) // 2)
    total = np.zeros(count)
    for i, hypothesis in enumerate(words):
        for other in ((i + step) % count for step in range(1, partners + 1)):
            value = bleu(hypothesis, words[other])
            total[i] += value
            total[other] += value
    return total / (2 * partners)


def bleu(hypothesis: str, reference: str) -> float:
    """Sentence BLEU of sacrebleu on words with spaces between them: up to 4-grams, or as many as there are."""
    if hypothesis == reference:
        return 100.0
    return float(_bleu().sentence_score(hypothesis, [reference]).score) if hypothesis and reference else 0.0


@functools.cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True, tokenize="none")


def spread(encoder: Encoder) -> Among:
    """1 - cosine, over all pairs, 0 to 2. The mean has no bias: no answer is paired with itself."""

    def measure(texts: Sequence[str]) -> NDArray[np.float64]:
        import numpy as np

        vectors = np.asarray(encoder(texts), dtype=np.float64)
        return _over_others(1 - vectors @ vectors.T)

    return measure


def between_scores(prompts: Sequence[Prompt], answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, list[Score]]:
    """Side of a client -> for each prompt 1 - ROUGE-L of its answer with another client's, mean over the others.

    {} with fewer than two clients: one model for everybody gives everybody one answer.
    """
    clients = {side: found for side, found in answers.items() if side.startswith(CLIENT)}
    if len(clients) < 2:
        return {}
    by_prompt = {prompt.item_id: _apart(prompt.item_id, clients) for prompt in prompts}
    return {side: [by_prompt[prompt.item_id][side] for prompt in prompts] for side in clients}


def _apart(item: str, clients: Mapping[str, Mapping[str, Answer]]) -> dict[str, Score]:
    reasons = {side: why_not(found.get(item)) for side, found in clients.items()}
    texts = {side: first_said(clients[side][item]).text for side, reason in reasons.items() if not reason}
    scores = {side: Score(item, None, reason, cluster=item) for side, reason in reasons.items() if reason}
    for side, text in texts.items():
        others = [unlike(text, other) for name, other in texts.items() if name != side]
        mean, reason = (sum(others) / len(others), "") if others else (None, "no other client's answer")
        scores[side] = Score(item, mean, reason, cluster=item)
    return scores


def unlike(one: str, other: str) -> float:
    """1 - ROUGE-L F1: 0 for equal answers (also without words), 1 for ones that share no word."""
    return 0.0 if tokens(one) == tokens(other) else 1 - rouge_l(one, other)
