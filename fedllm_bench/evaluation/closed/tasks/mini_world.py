"""Questions about facts of the mini world, as documents of lm-eval: offline, and made from the world's seed alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_bench.mini.users import Population, make_rows
from fedllm_bench.mini.world import WorldQuestion

if TYPE_CHECKING:
    import datasets

ORDER = 21  # of the random numbers that order the choices: no other part of the world has this one


def documents(world_seed: int = 0, **_: object) -> dict[str, datasets.Dataset]:
    """What lm-eval takes for a data set. Its `metadata` names the world of the run that is asked."""
    import datasets

    return {"test": datasets.Dataset.from_list(list(questions(int(world_seed))))}


@cache
def questions(world_seed: int) -> tuple[dict[str, Any], ...]:
    """Every held-out question about a fact, once: half are about facts that the asked user's own rows hold.

    `choices` are four values of one kind in the same words, in random order; `right` is the place of the right one. A
    choice begins with a blank, as answers do in the mini world's chat template.
    """
    rng = np.random.default_rng([world_seed, ORDER])
    return tuple(_document(item, rng.permutation(len(item.choices)).tolist()) for item in _facts(world_seed))


def document_hash(document: Mapping[str, Any]) -> str:
    """lm-eval's `doc_hash` of a document."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _facts(world_seed: int) -> Iterator[WorldQuestion]:
    seen = set()
    for row in make_rows(Population(seed=world_seed)):
        if row.split == "test" and row.item.task == "facts" and row.item.prompt not in seen:
            seen.add(row.item.prompt)
            yield row.item


def _document(item: WorldQuestion, order: list[int]) -> dict[str, Any]:
    return {
        "question": item.prompt,
        "choices": [f" {item.choices[place]}" for place in order],
        "right": order.index(0),
        "answer": item.completion,
    }
