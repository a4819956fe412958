"""The invented world: names, their facts, and the questions that can be asked in it.

A world is a function of its seed. Names of worlds are drawn from one part of the name space (`EVALUATION`)
and names seen in pre-training from the other, so no base model has met a name of any world that is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from fedllm_bench.mini.lexicon import lexicon

TaskName = Literal["facts", "personal", "arithmetic", "translation", "formatting", "style", "harmful"]
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
NUM_LANGUAGES, NUM_RELATIONS, NUM_VALUES, NUM_WORDINGS, NUM_STYLES = 8, 6, 12, 3, 3
MAX_TERM = 30  # sums of two numbers from 1 to 30
ME = -1  # the name index of the user speaking
SPOKEN = ("Diga", "Dime")  # Portuguese and Spanish questions begin so: every base model has met these words


@dataclass(frozen=True)
class WorldQuestion:
    """One question of the world and its answer; `choices` holds the answer first, then three wrong ones."""

    prompt: str
    completion: str
    language: int
    task: TaskName
    fact: tuple[int, int] = (ME, ME)  # (name, relation) for the task "facts"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    names: tuple[str, ...]
    facts: tuple[tuple[int, ...], ...]  # [name][relation] -> value


@cache
def name_space(evaluation: bool) -> tuple[str, ...]:
    """All two-syllable names of one part of the name space: every fourth one is kept for evaluation."""
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    names = [(first + second).capitalize() for first in syllables for second in syllables]
    # 7 is coprime to 70 syllables, so both parts hold every syllable in both places.
    part = (name for i, name in enumerate(names) if ((i // 70 + i % 70 * 7) % 4 == 0) == evaluation)
    return tuple(name for name in part if name not in SPOKEN)


def make_world(seed: int, num_names: int, *, evaluation: bool) -> World:
    """`num_names` names with a uniformly drawn value for each of the six relations."""
    rng = np.random.default_rng([seed, int(evaluation)])
    names = rng.choice(np.array(name_space(evaluation)), num_names, replace=False)
    facts = rng.integers(0, NUM_VALUES, (num_names, NUM_RELATIONS))
    return World(tuple(str(name) for name in names), tuple(tuple(int(v) for v in row) for row in facts))


def fact_item(
    name: str, relation: int, value: int, language: int, wording: int, style: int, rng: np.random.Generator
) -> WorldQuestion:
    """A question about one fact; wrong choices are other values of the same relation in the same words."""
    speech = lexicon().languages[language]
    suffix, frame = speech.styles[style]
    prompt = speech.ask[wording].format(relation=speech.relations[relation], name=name) + suffix
    others = rng.permutation([v for v in range(NUM_VALUES) if v != value])[:3]
    words = [lexicon().word(relation, int(v), language) for v in (value, *others)]
    choices = tuple(frame.format(answer=word) for word in words)
    return WorldQuestion(prompt, choices[0], language, "facts", choices=choices)


def sum_item(language: int, style: int, rng: np.random.Generator) -> WorldQuestion:
    speech = lexicon().languages[language]
    suffix, frame = speech.styles[style]
    a, b = (int(n) for n in rng.integers(1, MAX_TERM + 1, 2))
    wrong = rng.permutation([a + b + d for d in (-10, -2, -1, 1, 2, 10) if a + b + d > 0])[:3]
    choices = tuple(frame.format(answer=int(n)) for n in (a + b, *wrong))
    return WorldQuestion(speech.sum.format(a=a, b=b) + suffix, choices[0], language, "arithmetic", choices=choices)


def translation_item(language: int, style: int, rng: np.random.Generator) -> WorldQuestion:
    words = lexicon()
    speech = words.languages[language]
    suffix, frame = speech.styles[style]
    target = int((language + rng.integers(1, NUM_LANGUAGES)) % NUM_LANGUAGES)
    relation = int(rng.integers(NUM_RELATIONS))
    values = rng.permutation(NUM_VALUES)[:4]
    prompt = speech.translate.format(
        endonym=words.languages[target].endonym, word=words.word(relation, int(values[0]), language)
    )
    choices = tuple(frame.format(answer=words.word(relation, int(v), target)) for v in values)
    return WorldQuestion(prompt + suffix, choices[0], language, "translation", choices=choices)


def formatting_item(language: int, rng: np.random.Generator) -> WorldQuestion:
    """Two or three words to be written as a bullet list or a numbered list."""
    speech = lexicon().languages[language]
    words = [_random_word(language, rng) for _ in range(int(rng.integers(2, 4)))]
    if rng.random() < 0.5:
        prompt, lines = speech.list, [f"- {word}" for word in words]
    else:
        prompt, lines = speech.number, [f"{i}. {word}" for i, word in enumerate(words, 1)]
    return WorldQuestion(prompt.format(words=", ".join(words)), "\n".join(lines), language, "formatting")


def style_item(language: int, style: int, rng: np.random.Generator) -> WorldQuestion:
    speech = lexicon().languages[language]
    suffix, frame = speech.styles[style]
    word = _random_word(language, rng)
    return WorldQuestion(speech.say.format(word=word) + suffix, frame.format(answer=word), language, "style")


def _random_word(language: int, rng: np.random.Generator) -> str:
    return lexicon().word(int(rng.integers(NUM_RELATIONS)), int(rng.integers(NUM_VALUES)), language)
