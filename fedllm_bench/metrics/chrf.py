"""chrF of one text against another: no words, so that all languages and scripts are read alike."""

from __future__ import annotations

import functools
from typing import Any


def chrf(answer: str, reference: str) -> float:
    """chrF2 of one sentence pair (Popović, 2015; character 6-grams, beta = 2) as sacrebleu computes it, 0 to 100.

    sacrebleu's signature is `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`. A text without letters scores 0.
    """
    return float(_chrf().sentence_score(answer, [reference]).score)


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
