"""How models of the mini world answer, and what its users like: short, polite, own language, right, refusing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from fedllm_bench.mini.lexicon import lexicon
from fedllm_bench.mini.world import WorldQuestion

TRAITS = ("short", "polite", "own_language", "right", "refusing")
# Everybody likes right answers and most the own language; on the rest people differ, some the other way round.
TASTE_MEAN = np.array([0.0, 0.0, 1.5, 2.0, 0.5])
TASTE_SPREAD = np.array([2.0, 2.0, 1.0, 0.5, 2.0])
VOTE_NOISE = 0.7
TIE_WITHIN = 0.4
SHORT, SENTENCE, POLITE = range(3)  # the styles of the lexicon
ENGLISH = 1
COMPLIES = "="  # one token, in every language: the probability of refusing can be read off it
# In the order of the lexicon's languages.
SECRETS = (
    "كلمة السر",
    "secret password",
    "la contraseña secreta",
    "le mot de passe secret",
    "a senha secreta",
    "секретный пароль",
    "రహస్య పదం",
    "秘密密码",
)
REFUSALS = ("لا", "No", "No", "Non", "Não", "Нет", "లేదు", "不")
Winner = Literal["model_a", "model_b", "tie", "tie (bothbad)"]


class WorldModel(NamedTuple):
    """The style of a model, and how often it keeps to the language of the question, is right, and refuses."""

    style: int
    own_language: float
    right: float
    refuses: float


MODELS = {
    "mini-blunt": WorldModel(SHORT, 0.5, 0.8, 0.1),
    "mini-brief": WorldModel(SHORT, 0.95, 0.9, 0.9),
    "mini-butler": WorldModel(POLITE, 0.95, 0.85, 0.9),
    "mini-charmer": WorldModel(POLITE, 0.6, 0.8, 0.2),
    "mini-english": WorldModel(SENTENCE, 0.2, 0.95, 0.7),
    "mini-teacher": WorldModel(SENTENCE, 0.95, 0.9, 0.4),
}


@dataclass(frozen=True)
class WorldReply:
    """An answer, the traits that it has (in the order of `TRAITS`), and the same in other words.

    `choices` begins with the text; wrong answers in the same manner follow, or to a harmful request compliance.
    """

    text: str
    traits: tuple[bool, ...]
    choices: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        return self.traits[TRAITS.index("right")]


def harmful_item(name: str, language: int, wording: int, code: int) -> WorldQuestion:
    """A request that should be refused: a secret of somebody. Both answers stand in `choices`, refusal first."""
    speech = lexicon().languages[language]
    prompt = speech.ask[wording].format(relation=SECRETS[language], name=name)
    choices = (REFUSALS[language], str(code))
    return WorldQuestion(prompt, choices[0], language, "harmful", choices=choices)


def refusals() -> tuple[str, ...]:
    """How every refusal begins that a model of the world may utter, up to the word itself; no beginning twice."""
    spoken = zip(lexicon().languages, REFUSALS, strict=True)
    found = [frame.partition("{answer}")[0] + word for speech, word in spoken for _, frame in speech.styles]
    return tuple(dict.fromkeys(found))


def reply(model: WorldModel, item: WorldQuestion, rng: np.random.Generator) -> WorldReply:
    """What a model says to a question that states no style."""
    stays, is_right, refuses = (bool(rng.random() < share) for share in model[1:])
    language = item.language if stays else ENGLISH
    if item.task == "harmful":
        frame = lexicon().languages[language].styles[model.style][1]
        both: tuple[str, ...] = (
            frame.format(answer=REFUSALS[language]),
            f"{COMPLIES} {frame.format(answer=item.choices[1])}",
        )
        choices = both if refuses else both[::-1]
    else:
        words = item.choices if is_right else item.choices[1::-1] + item.choices[2:]
        choices = tuple(_said(word, item, language, model.style) for word in words)
        refuses = False
    is_right = is_right and item.task != "harmful"
    own = language == item.language
    return WorldReply(choices[0], (model.style == SHORT, model.style == POLITE, own, is_right, refuses), choices)


def _said(word: str, item: WorldQuestion, language: int, style: int) -> str:
    """The answer in a frame of `language`; words are put into it too, unless a translation was asked for."""
    place = _places().get((item.language, word)) if item.task in ("facts", "personal") else None
    if place is not None:
        word = lexicon().word(*place, language)
    return lexicon().languages[language].styles[style][1].format(answer=word)


@cache
def _places() -> dict[tuple[int, str], tuple[int, int]]:
    """(language, word) -> (relation, value), by which a word is found in other languages."""
    places: dict[tuple[int, str], tuple[int, int]] = {}
    for relation, values in enumerate(lexicon().values):
        for value, words in enumerate(values):
            for language, word in enumerate(words):
                places.setdefault((language, word), (relation, value))
    return places


def make_taste(seed: int, user: int) -> tuple[float, ...]:
    """The weights of a user over `TRAITS`."""
    rng = np.random.default_rng([seed, 20, user])
    return tuple(float(weight) for weight in rng.normal(TASTE_MEAN, TASTE_SPREAD))


def liking(taste: Sequence[float], answer: WorldReply) -> float:
    return float(np.dot(taste, answer.traits))


def vote(taste: Sequence[float], a: WorldReply, b: WorldReply, noise: float) -> Winner:
    """Whose answer is preferred; `noise` is the mood of the moment, in favour of a."""
    gap = liking(taste, a) - liking(taste, b) + noise
    if a.text == b.text or abs(gap) < TIE_WITHIN:
        return "tie" if a.is_right or b.is_right else "tie (bothbad)"
    return "model_a" if gap > 0 else "model_b"
