"""Text for pre-training the mini base model: other worlds than any that is evaluated.

The mix follows a trial: facts of one fixed world of other names, which teach that a fact is the same in
every language and wording; facts about fresh names, which teach to answer an unknown name with some value
of the right kind; facts told in the prompt; sums, translations, lists and styles.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedllm_bench.mini.lexicon import lexicon
from fedllm_bench.mini.world import (
    NUM_LANGUAGES,
    NUM_RELATIONS,
    NUM_STYLES,
    NUM_VALUES,
    NUM_WORDINGS,
    World,
    WorldQuestion,
    fact_item,
    formatting_item,
    make_world,
    name_space,
    style_item,
    sum_item,
    translation_item,
)

NUM_NAMES = 150
SHARES = {
    "known": 0.46,
    "fresh": 0.05,
    "told": 0.08,
    "sum": 0.14,
    "translation": 0.15,
    "list": 0.07,
    "style": 0.05,
}


def items(seed: int, *, known_names: bool = True) -> Iterator[WorldQuestion]:
    """An endless stream of pre-training items, a function of the seed.

    Without `known_names` all questions are about fresh names, which suits the training of a tokenizer.
    """
    rng = np.random.default_rng([seed, 2])
    world = make_world(seed, NUM_NAMES, evaluation=False)
    fresh = np.array([name for name in name_space(False) if name not in set(world.names)])
    kinds = list(SHARES) if known_names else ["fresh" if kind == "known" else kind for kind in SHARES]
    shares = np.array(list(SHARES.values()))
    while True:
        for kind in rng.choice(kinds, 1024, p=shares / shares.sum()):
            yield _item(str(kind), world, fresh, rng)


def _item(kind: str, world: World, fresh: np.ndarray, rng: np.random.Generator) -> WorldQuestion:
    language = int(rng.integers(NUM_LANGUAGES))
    style = int(rng.integers(NUM_STYLES))
    match kind:
        case "sum":
            return sum_item(language, style, rng)
        case "translation":
            return translation_item(language, style, rng)
        case "list":
            return formatting_item(language, rng)
        case "style":
            return style_item(language, style, rng)
        case "known":
            index, relation = int(rng.integers(NUM_NAMES)), int(rng.integers(NUM_RELATIONS))
            return _ask(world.names[index], relation, world.facts[index][relation], language, style, rng)
        case "fresh":
            relation, value = int(rng.integers(NUM_RELATIONS)), int(rng.integers(NUM_VALUES))
            return _ask(str(rng.choice(fresh)), relation, value, language, style, rng)
        case _:
            return _told(str(rng.choice(fresh)), language, style, rng)


def _ask(name: str, relation: int, value: int, language: int, style: int, rng: np.random.Generator) -> WorldQuestion:
    return fact_item(name, relation, value, language, int(rng.integers(NUM_WORDINGS)), style, rng)


def _told(name: str, language: int, style: int, rng: np.random.Generator) -> WorldQuestion:
    """A fact told in one language and asked in another within the same prompt."""
    words = lexicon()
    relation, value = int(rng.integers(NUM_RELATIONS)), int(rng.integers(NUM_VALUES))
    teller = int(rng.integers(NUM_LANGUAGES))
    speech = words.languages[teller]
    told = speech.tell.format(name=name, relation=speech.relations[relation], value=words.word(relation, value, teller))
    asked = _ask(name, relation, value, language, style, rng)
    return WorldQuestion(f"{told} {asked.prompt}", asked.completion, language, "facts")
