"""What may differ between two splits of the same raw rows, and the filters that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.funnel_words import ANY
from fedllm_bench.data.json_stream import MAX_ID_CHARACTERS, is_unicode
from fedllm_bench.data.languages import normal_language
from fedllm_bench.data.rows import Task


class Flag(NamedTuple):
    """Something that a pipeline says of a row, and the reason for which such rows go."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a pipeline says of its upstream."""

    dataset: str
    upstream: str
    licence: str
    version: str  # of the pipeline: another one may give another split from the same rows and recipe
    recipe: Recipe
    task: Task = "sft"
    checks: tuple[Flag, ...] = ()  # rows that are none; always removed
    flags: tuple[Flag, ...] = ()  # removed where the recipe's `drop_flagged` names them
    columns: Mapping[str, str] = field(default_factory=dict)  # part of a row -> its column, where the user named them


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a split is made of raw rows. `min_samples` counts all usable rows of a user, repeated ones too.

    `per`, such as "language:20", keeps for each language (or source) the 20 users with most rows, each user under the
    one of most of their rows. `max_clients` keeps of these those with most rows, ties by id. `heldout` is a fraction of
    each client's rows, or "upstream": the rows of the upstream test and validation splits. `unseen_clients` users who
    were not kept become the unseen part, those with most rows first. Without languages, all are kept. `near_duplicates`
    are counted or dropped. `partition` says who the clients are: users, or parts made of the same rows.
    `prompt_disjoint` holds out whole prompts, the same for all clients. `bad_rows` says whether a row that cannot be
    read stops the build, or is skipped and counted. `leakage` says how held-out rows are compared with training rows:
    in the normal form of decontamination, or exactly.
    """

    min_samples: int = 1
    max_samples: int | None = None
    max_clients: int | None = None
    languages: tuple[str, ...] = ()
    heldout: float | Literal["upstream"] = 0.1
    unseen_clients: int = 0
    min_prompt_characters: int = 1
    max_prompt_characters: int | None = None
    min_completion_characters: int = 1
    max_completion_characters: int | None = None
    deduplicate: bool = True
    seed: int = 0
    drop_flagged: tuple[str, ...] = ()
    near_duplicates: Literal["report", "drop", "off"] = "report"
    partition: str = "user"
    prompt_disjoint: bool = False
    bad_rows: Literal["stop", "skip"] = "stop"
    leakage: Literal["normal", "exact"] = "normal"
    per: str = ""

    def __post_init__(self) -> None:
        at_least = {"min_samples": 1, "max_samples": 1, "max_clients": 1, "unseen_clients": 0}
        at_least |= {"max_prompt_characters": 1, "max_completion_characters": 1}
        for name, least in at_least.items():
            value = vars(self)[name]
            if value is not None and value < least:
                raise UserError(f"{name}={value} in the recipe; it must be at least {least}")
        if self.heldout != "upstream" and not (isinstance(self.heldout, int | float) and 0 <= self.heldout < 1):
            raise UserError(f"heldout={self.heldout!r} in the recipe; it must be in [0, 1) or 'upstream'")
        if self.near_duplicates not in ("report", "drop", "off"):
            raise UserError(f"near_duplicates={self.near_duplicates!r} in the recipe; it is report, drop or off")
        if self.bad_rows not in ("stop", "skip"):
            raise UserError(f"bad_rows={self.bad_rows!r} in the recipe; it is stop or skip")
        if self.leakage not in ("normal", "exact"):
            raise UserError(f"leakage={self.leakage!r} in the recipe; it is normal or exact")
        if self.prompt_disjoint and self.heldout == "upstream":
            raise UserError("prompt_disjoint chooses what is held out; heldout='upstream' has chosen already: give one")
        check_partition(self.partition)
        if self.per:
            check_per(self.per)

    def normal(self) -> Recipe:
        """The recipe in the one form that is written; heldout=0 trains on everything and has no unseen.

        Nor have artificial partitions: their clients are no users, so nobody is a stranger to them.
        """
        heldout = self.heldout if self.heldout == "upstream" else float(self.heldout)
        unseen = 0 if heldout == 0 or self.partition != "user" else self.unseen_clients
        languages = tuple(sorted({normal_language(word) for word in self.languages}))
        flags = tuple(sorted(set(self.drop_flagged)))
        partition = normal_partition(self.partition)
        changed: dict[str, Any] = {"heldout": heldout, "unseen_clients": unseen, "partition": partition}
        return replace(self, languages=languages, drop_flagged=flags, **changed)

    def record(self) -> dict[str, Any]:
        """The recipe as the manifest has it. Options of later versions stand there only where they change rows,

        so that a split that was built before them keeps its hash.
        """
        later: dict[str, Any] = {"drop_flagged": (), "partition": "user", "prompt_disjoint": False}
        later |= {"bad_rows": "stop", "leakage": "exact", "per": ""}
        if self.near_duplicates != "drop":
            later["near_duplicates"] = self.near_duplicates
        values = {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


class Filter(NamedTuple):
    """A step that looks at one row alone."""

    step: str
    reason: str
    passes: Callable[[Sample], bool]


def filters(recipe: Recipe, declared: Declaration) -> tuple[Filter, ...]:
    """The row filters in order. The first one guards the user id: only what passes it has a user at all."""
    languages = frozenset(recipe.languages)
    known = {flag.name: flag for flag in declared.flags}
    if unknown_flags := sorted(set(recipe.drop_flagged) - known.keys()):
        raise unknown(f"flag of the dataset {declared.dataset}", unknown_flags[0], known or ["none"])
    return (
        Filter("user_id", f"user id blank, longer than {MAX_ID_CHARACTERS} characters or broken text", _has_user),
        *map(_unflagged, declared.checks),
        Filter("empty", "prompt or completion empty or broken text", _has_text),
        Filter(
            "languages",
            f"language not in {', '.join(recipe.languages) or 'all'}",
            lambda sample: not languages or sample.language in languages,
        ),
        Filter("length", _bounds_in_words(recipe), lambda sample: _has_length(sample, recipe)),
        *(_unflagged(known[name]) for name in recipe.drop_flagged),
    )


def _unflagged(flag: Flag) -> Filter:
    return Filter(flag.name, flag.reason, lambda sample: flag.name not in sample.flags)


def _has_user(sample: Sample) -> bool:
    return len(sample.client) <= MAX_ID_CHARACTERS and bool(sample.client.strip()) and is_unicode(sample.client)


def _has_text(sample: Sample) -> bool:
    texts = (*(content for _, content in sample.turns), *sample.answers)
    words = (sample.language, sample.source)
    return bool(texts) and all(text.strip() for text in texts) and all(map(is_unicode, (*texts, *words)))


def _has_length(sample: Sample, recipe: Recipe) -> bool:
    prompt_ok = _within(sample.prompt, recipe.min_prompt_characters, recipe.max_prompt_characters)
    least, most = recipe.min_completion_characters, recipe.max_completion_characters
    return prompt_ok and all(_within(answer, least, most) for answer in sample.answers)


def _within(text: str, least: int, most: int | None) -> bool:
    return least <= len(text) and (most is None or len(text) <= most)


def _bounds_in_words(recipe: Recipe) -> str:
    prompt = f"{recipe.min_prompt_characters} to {recipe.max_prompt_characters or ANY}"
    completion = f"{recipe.min_completion_characters} to {recipe.max_completion_characters or ANY}"
    return f"characters not within {prompt} (prompt) and {completion} (completion)"


Over = Literal["language", "source", "topic"]

FORMS = (
    "user, language, iid:N (such as iid:20) or dirichlet:ALPHA[:OVER] (such as dirichlet:0.5 or dirichlet:0.5:topic; "
    f"OVER is {', '.join(get_args(Over))})"
)


class Partition(NamedTuple):
    """A partition's kind, its number (0 where it has none), and what a Dirichlet one shares out."""

    kind: str
    number: float = 0.0
    over: str = "language"


def check_partition(text: str) -> Partition:
    """The partition that a recipe states; a :class:`UserError` for any other text."""
    kind, *rest = text.split(":")
    if text in ("user", "language"):
        return Partition(kind)
    most = {"iid": 1, "dirichlet": 2}.get(kind, 0)
    number = _positive(rest[0], whole=kind == "iid") if 1 <= len(rest) <= most else 0.0
    over = rest[1] if len(rest) > 1 else "language"
    if not number or over not in get_args(Over):
        raise UserError(f"partition={text[:100]!r} in the recipe; it is {FORMS}")
    return Partition(kind, number, over)


def _positive(text: str, *, whole: bool) -> float:
    """0 for what is no positive finite number."""
    try:
        value = float(int(text)) if whole else float(text)
    except (ValueError, OverflowError):
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


def normal_partition(text: str) -> str:
    """Language is what a Dirichlet partition is over unless it says otherwise: one split, one hash."""
    return text.removesuffix(":language") if text.startswith("dirichlet:") else text


PerColumn = Literal["language", "source"]


class Per(NamedTuple):
    """The column of the split whose values share out the clients, and the most users of each value."""

    column: str
    most: int


def check_per(text: str) -> Per:
    """What a recipe's `per` states; a :class:`UserError` for any other text."""
    column, _, most = text.partition(":")
    if column not in get_args(PerColumn):
        known = " or ".join(get_args(PerColumn))
        raise UserError(f"per={text[:100]!r} (--per): clients are chosen by {known}, not by {column[:60]!r}")
    number = int(most) if most.isascii() and most.isdigit() and len(most) < 10 else 0
    if not number:
        raise UserError(f"per={text[:100]!r} (--per, --per-language): give 1 user or more of each {column}, such as 20")
    return Per(column, number)
