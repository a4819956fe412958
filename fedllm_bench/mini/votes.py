"""Votes of the mini world in the columns of Chatbot Arena: two models answer, the user prefers one by its taste.

Questions state no style: which of the answers is the better one is the user's taste. A tie is followed by another
battle about the same question, so that what a user knows is trained on whatever the models said first. A held-out
vote is decisive, without noise and for a right answer; its question is in words the user never used, as in all
mini data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fedllm_bench.common.files import sha256_json
from fedllm_bench.mini.raw import (
    FIRST_SECOND,
    FLAGGED_SHARE,
    SECONDS_BETWEEN,
    RawRow,
    detected_language,
    messages,
    probe,
)
from fedllm_bench.mini.tastes import MODELS, VOTE_NOISE, Winner, WorldReply, harmful_item, make_taste, reply, vote
from fedllm_bench.mini.users import Answered, Population, User, make_rows, talkers
from fedllm_bench.mini.world import ME, NUM_LANGUAGES, NUM_WORDINGS, WorldQuestion, make_world

HARMFUL_SHARE = 0.1  # of a user's rows
TWO_TURNS_SHARE = 0.2
MOST_BATTLES = 6  # about one question in training; more where it must be decisive
MOST_BATTLES_HELDOUT = 60


@dataclass(frozen=True)
class Battle:
    """One battle: the models, their answers to each question, and whom the user preferred."""

    user_id: str
    split: Literal["train", "test"]
    holder: str
    questions: tuple[WorldQuestion, ...]
    models: tuple[str, str]
    replies: tuple[tuple[WorldReply, ...], tuple[WorldReply, ...]]
    winner: Winner
    flagged: bool = False

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The turns of both conversations."""
        both = [
            [text for item, said in zip(self.questions, answers, strict=True) for text in (item.prompt, said.text)]
            for answers in self.replies
        ]
        return both[0], both[1]

    @property
    def preferred(self) -> int | None:
        return {"model_a": 0, "model_b": 1}.get(self.winner)


def make_votes(population: Population) -> list[Battle]:
    """All votes of all users; those of users above the cut also held-out ones."""
    users = talkers(population, states_style=False)
    rows = make_rows(population, users) + _harmful_rows(population, users)
    votes = []
    for index, user in enumerate(users):
        rng = np.random.default_rng([population.seed, 21, index])
        taste = make_taste(population.seed, index)
        own = [row for row in rows if row.user_id == user.user_id]
        for row in own:
            votes += _battles(row, _questions(row, own, rng), taste, rng)
    return votes + _flagged(votes, np.random.default_rng([population.seed, 22]))


def _harmful_rows(population: Population, users: Sequence[User]) -> list[Answered]:
    """Harmful requests in training and held out, the latter in a (language, wording) pair the user never wrote in."""
    world = make_world(population.seed, population.num_names, evaluation=True)
    pairs = [(language, wording) for language in range(NUM_LANGUAGES) for wording in range(NUM_WORDINGS)]
    rows = []
    for index, user in enumerate(users):
        rng = np.random.default_rng([population.seed, 23, index])
        others = [pair for pair in pairs if pair not in user.pairs]
        parts = [("train", sorted(user.pairs), max(1, round(HARMFUL_SHARE * user.size)))]
        parts += [("test", others, 2)] if index < population.num_users else []
        for split, allowed, count in parts:
            for _ in range(count):
                name, pair = int(rng.integers(len(world.names))), allowed[int(rng.integers(len(allowed)))]
                item = harmful_item(world.names[name], *pair, code=_code(population.seed, name))
                rows.append(Answered(user.user_id, "train" if split == "train" else "test", item))
    taught = {row.item.prompt for row in rows if row.split == "train"}
    return [row for row in rows if row.split == "train" or row.item.prompt not in taught]


def _code(seed: int, name: int) -> int:
    """The secret of a name."""
    return int(np.random.default_rng([seed, 24, name]).integers(10, 100))


def _questions(row: Answered, own: Sequence[Answered], rng: np.random.Generator) -> tuple[WorldQuestion, ...]:
    """The question of the vote, sometimes after another one of the user that does not give its answer away."""
    if rng.random() >= TWO_TURNS_SHARE:
        return (row.item,)
    before = [
        other.item
        for other in own
        if other.split == row.split
        and other.item.prompt != row.item.prompt
        and not other.item.fact == row.item.fact != (ME, ME)
    ]
    return (before[int(rng.integers(len(before)))], row.item) if before else (row.item,)


def _battles(
    row: Answered, questions: tuple[WorldQuestion, ...], taste: Sequence[float], rng: np.random.Generator
) -> list[Battle]:
    """Battles until one is decisive; of a held-out question only that one."""
    is_test = row.split == "test"
    made = []
    for _ in range(MOST_BATTLES_HELDOUT if is_test else MOST_BATTLES):
        made.append(_battle(row, questions, taste, rng))
        if _is_settled(made[-1]):
            return made[-1:] if is_test else made
    return [] if is_test else made


def _battle(
    row: Answered, questions: tuple[WorldQuestion, ...], taste: Sequence[float], rng: np.random.Generator
) -> Battle:
    first, second = (str(name) for name in rng.permutation(sorted(MODELS))[:2])
    a, b = (tuple(reply(MODELS[name], item, rng) for item in questions) for name in (first, second))
    noise = float(rng.normal(0, VOTE_NOISE)) if row.split == "train" else 0.0
    winner = vote(taste, a[-1], b[-1], noise)
    return Battle(row.user_id, row.split, row.holder, questions, (first, second), (a, b), winner)


def _is_settled(made: Battle) -> bool:
    if made.preferred is None or made.split == "train":
        return made.preferred is not None
    return made.questions[-1].task == "harmful" or made.replies[made.preferred][-1].is_right


def _flagged(votes: Sequence[Battle], rng: np.random.Generator) -> list[Battle]:
    """Repeated votes that moderation flagged: no fact is lost with them."""
    decided = [made for made in votes if made.split == "train" and made.preferred is not None]
    chosen = rng.permutation(len(decided))[: max(2, round(FLAGGED_SHARE * len(decided)))]
    return [replace(decided[i], flagged=True) for i in chosen]


def arena_row(number: int, made: Battle) -> dict[str, Any]:
    """One row in the columns of lmsys/chatbot_arena_conversations."""
    a, b = made.sides
    toxic = made.flagged and number % 2 == 0
    return {
        "question_id": sha256_json([number, a, b])[:32],
        "model_a": made.models[0],
        "model_b": made.models[1],
        "winner": made.winner,
        "judge": made.user_id,
        "conversation_a": messages(a),
        "conversation_b": messages(b),
        "turn": len(made.questions),
        "anony": True,
        "language": detected_language(made.questions[0].language),
        "tstamp": float(FIRST_SECOND + number * SECONDS_BETWEEN),
        "openai_moderation": {"flagged": made.flagged and not toxic},
        "toxic_chat_tag": {"mini": {"flagged": toxic, "probability": float(toxic)}},
        "source": f"mini:{made.questions[-1].task}",
    }


def arena_rows(population: Population) -> list[RawRow]:
    """All raw rows, with probes of the held-out votes."""
    return [
        RawRow(made.split, arena_row(number, made), _probe(made) if made.split == "test" else None)
        for number, made in enumerate(make_votes(population))
    ]


def _probe(made: Battle) -> dict[str, Any] | None:
    """Choices are in the manner that the user preferred, to a harmful request the preferred answer and the other."""
    if made.preferred is None:
        return None
    item, said = made.questions[-1], made.replies[made.preferred][-1]
    return probe(made.user_id, made.sides[made.preferred], item.task, made.holder, said.choices)
