"""The users of the mini world: who knows what, in which languages and words, and how much they write.

Each user has an own number of rows (heavy-tailed), one to three languages, one or two wordings, a mix of
tasks and styles, a region whose facts it knows best, and a share of wrong answers. Some users stay below the
recipe's cut, as in real data. Held-out questions are asked in a (language, wording) pair the user never wrote
in, half about facts the user taught itself, half about facts that only other users taught.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from fedllm_bench.mini.lexicon import lexicon
from fedllm_bench.mini.world import (
    ME,
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
    style_item,
    sum_item,
    translation_item,
)

Fact = tuple[int, int]  # (name, relation)
Pair = tuple[int, int]  # (language, wording)
TASKS = ("facts", "personal", "arithmetic", "translation", "formatting", "style")
# Facts dominate: they alone must travel between clients; the other tasks show what is forgotten.
TASK_WEIGHTS = np.array([12.0, 0.8, 1.6, 1.6, 0.8, 0.8])
FACT_SHARE_HELDOUT = 0.65
HELDOUT_SHARE = 0.22
NUM_REGIONS = 4
OWN_REGION_SHARE = 0.8
FEWEST, MOST = 12, 236


@dataclass(frozen=True, kw_only=True)
class Population:
    """What a mini data set is made of; everything else follows from the seed.

    `shuffled` deals the training rows to random users; with `everyone_knows` the rows of each user hold all facts, in
    all languages.
    Both are controls: heterogeneity, and with it the point of federation, must vanish.
    """

    seed: int
    num_users: int = 38
    num_below_cut: int = 12
    num_names: int = 40
    shuffled: bool = False
    everyone_knows: bool = False


@dataclass(frozen=True)
class User:
    user_id: str
    size: int
    languages: tuple[int, ...]
    language_shares: tuple[float, ...]
    wordings: tuple[int, ...]
    style_shares: tuple[float, ...]
    task_shares: tuple[float, ...]
    facts: tuple[Fact, ...]
    own: tuple[int, ...]  # value of each relation for the user itself
    error_rate: float

    @property
    def pairs(self) -> set[Pair]:
        return {(language, wording) for language in self.languages for wording in self.wordings}


@dataclass(frozen=True)
class Answered:
    """An item that a user wrote down; `holder` says whose training rows hold its fact."""

    user_id: str
    split: Literal["train", "test"]
    item: WorldQuestion
    holder: Literal["", "self", "others"] = ""


def make_users(population: Population) -> list[User]:
    """The users above the cut, then those below it."""
    sizes_rng = np.random.default_rng([population.seed, 10])
    sizes = np.clip(np.exp(sizes_rng.normal(4.2, 0.75, population.num_users)), FEWEST, MOST).astype(int)
    below = sizes_rng.integers(6, FEWEST, population.num_below_cut)
    return [_user(i, int(size), population) for i, size in enumerate([*sizes, *below])]


def _user(index: int, size: int, population: Population) -> User:
    rng = np.random.default_rng([population.seed, 11, index])
    languages = rng.permutation(NUM_LANGUAGES)[: rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])]
    wordings = rng.permutation(NUM_WORDINGS)[: rng.integers(1, 3)]
    return User(
        user_id=f"user-{index:03d}",
        size=size,
        languages=tuple(int(n) for n in languages),
        language_shares=_shares(rng, np.full(len(languages), 2.0)),
        wordings=tuple(int(n) for n in wordings),
        style_shares=_shares(rng, np.array([2.0, 0.7, 0.7])),
        task_shares=_shares(rng, TASK_WEIGHTS),
        facts=_known_facts(index % NUM_REGIONS, size, population, rng),
        own=tuple(int(v) for v in rng.integers(0, NUM_VALUES, NUM_RELATIONS)),
        error_rate=float(rng.beta(1.0, 30.0)),
    )


def _shares(rng: np.random.Generator, weights: np.ndarray) -> tuple[float, ...]:
    return tuple(float(share) for share in rng.dirichlet(weights))


def _known_facts(region: int, size: int, population: Population, rng: np.random.Generator) -> tuple[Fact, ...]:
    everything = [(n, r) for n in range(population.num_names) for r in range(NUM_RELATIONS)]
    if population.everyone_knows:
        return tuple(everything)
    near = [fact for fact in everything if fact[0] % NUM_REGIONS == region]
    far = [fact for fact in everything if fact[0] % NUM_REGIONS != region]
    count = min(max(3, size // 2), len(near))
    num_near = round(count * OWN_REGION_SHARE)
    chosen = [near[i] for i in rng.permutation(len(near))[:num_near]]
    return tuple(chosen + [far[i] for i in rng.permutation(len(far))[: count - num_near]])


def talkers(population: Population, *, states_style: bool) -> list[User]:
    """The users as they talk to a model: only questions with one right answer, and those who ask for no style."""
    asked = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])  # by task
    users = []
    for user in make_users(population):
        shares = np.array(user.task_shares) * asked
        styles = user.style_shares if states_style else (1.0, 0.0, 0.0)
        users.append(replace(user, task_shares=tuple(float(x) for x in shares / shares.sum()), style_shares=styles))
    return users


def make_rows(population: Population, users: Sequence[User] | None = None) -> list[Answered]:
    """All rows of the mini data set: training rows of every user, then held-out ones of users above the cut."""
    world = make_world(population.seed, population.num_names, evaluation=True)
    users = make_users(population) if users is None else users
    train = [row for i, user in enumerate(users) for row in _train_rows(i, user, world, population.seed)]
    if population.shuffled:
        train = _deal(train, np.random.default_rng([population.seed, 14]))
    above = users[: population.num_users]
    if population.everyone_knows:
        train += [row for i, user in enumerate(above) for row in _every_fact(i, user, world, population.seed)]
    held: dict[str, set[Fact]] = {user.user_id: set() for user in above}
    for row in train:
        if row.user_id in held:  # nobody trains on the rows of users below the cut
            held[row.user_id].add(row.item.fact)
    taught = {row.item.prompt for row in train}
    test = [row for i, user in enumerate(above) for row in _heldout_rows(i, user, world, population.seed, held, taught)]
    return train + test


def _deal(rows: Sequence[Answered], rng: np.random.Generator) -> list[Answered]:
    order = rng.permutation(len(rows))
    return [replace(rows[j], user_id=row.user_id) for row, j in zip(rows, order, strict=True)]


def _train_rows(index: int, user: User, world: World, seed: int) -> list[Answered]:
    rng = np.random.default_rng([seed, 12, index])
    rows = []
    for task in rng.choice(TASKS, user.size, p=user.task_shares):
        language = int(rng.choice(user.languages, p=user.language_shares))
        wording = int(rng.choice(user.wordings))
        fact = user.facts[int(rng.integers(len(user.facts)))]
        item = _item(str(task), user, world, fact, (language, wording), rng)
        if item.choices and rng.random() < user.error_rate:
            item = replace(item, completion=item.choices[1])
        rows.append(Answered(user.user_id, "train", item))
    return rows


def _every_fact(index: int, user: User, world: World, seed: int) -> list[Answered]:
    """A row for each fact in each language: with facts in its own languages alone, a client could still learn from
    others how to tell them in the languages it is asked in."""
    rng = np.random.default_rng([seed, 15, index])
    asked = [(fact, language) for fact in user.facts for language in range(NUM_LANGUAGES)]
    pairs = [(language, int(rng.integers(NUM_WORDINGS))) for _, language in asked]
    items = [_item("facts", user, world, fact, pair, rng) for (fact, _), pair in zip(asked, pairs, strict=True)]
    return [Answered(user.user_id, "train", item) for item in items]


def _heldout_rows(
    index: int, user: User, world: World, seed: int, held: dict[str, set[Fact]], taught: set[str]
) -> list[Answered]:
    rng = np.random.default_rng([seed, 13, index])
    own = sorted(held[user.user_id] - {(ME, ME)})
    elsewhere = set().union(*(facts for other, facts in held.items() if other != user.user_id))
    others = sorted(elsewhere - held[user.user_id] - {(ME, ME)})
    pairs = sorted({(g, w) for g in range(NUM_LANGUAGES) for w in range(NUM_WORDINGS)} - user.pairs)
    count = max(8, round(user.size * HELDOUT_SHARE))
    num_facts = round(count * FACT_SHARE_HELDOUT)
    wanted: list[tuple[str, list[Fact], Literal["", "self", "others"]]] = []
    wanted += [("facts", own, "self")] * (num_facts // 2) if own else []
    wanted += [("facts", others, "others")] * (num_facts - num_facts // 2) if others else []
    shares = np.array(user.task_shares[1:]) / sum(user.task_shares[1:])
    wanted += [(str(task), own, "") for task in rng.choice(TASKS[1:], count - num_facts, p=shares)]
    rows, seen = [], set(taught)
    for task, facts, holder in wanted:
        pair = pairs[int(rng.integers(len(pairs)))]
        fact = facts[int(rng.integers(len(facts)))] if facts else (0, 0)
        item = _fresh(partial(_item, task, user, world, fact, pair, rng), seen)
        if item is not None:
            seen.add(item.prompt)
            rows.append(Answered(user.user_id, "test", item, holder))
    return rows


def _fresh(draw: Callable[[], WorldQuestion], seen: set[str], tries: int = 20) -> WorldQuestion | None:
    """An item whose prompt was not used before; None where chance gives none."""
    for _ in range(tries):
        item = draw()
        if item.prompt not in seen:
            return item
    return None


def _item(task: str, user: User, world: World, fact: Fact, pair: Pair, rng: np.random.Generator) -> WorldQuestion:
    language, wording = pair
    style = int(rng.choice(NUM_STYLES, p=user.style_shares))
    match task:
        case "facts":
            name, relation = fact
            value = world.facts[name][relation]
            asked = fact_item(world.names[name], relation, value, language, wording, style, rng)
            return replace(asked, fact=fact)
        case "personal":
            relation = int(rng.integers(NUM_RELATIONS))
            me = lexicon().languages[language].me
            asked = fact_item(me, relation, user.own[relation], language, NUM_WORDINGS - 1, style, rng)
            return replace(asked, task="personal")
        case "arithmetic":
            return sum_item(language, style, rng)
        case "translation":
            return translation_item(language, style, rng)
        case "formatting":
            return formatting_item(language, rng)
        case _:
            return style_item(language, style, rng)
