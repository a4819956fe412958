"""What may differ between two splits of the same raw rows, and the filters that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from fedllm_bench.errors import UserError

MAX_ID_CHARACTERS = 256


class Sample(NamedTuple):
    """One usable or unusable upstream row, in the words of a client split."""

    client: str
    prompt: str
    completion: str
    language: str
    source: str
    upstream_split: str  # "train", "validation" or "test"
    file: str  # where it was read; no part of the row


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a split is made of raw rows. `min_samples` counts all usable rows of a user, repeated ones too.

    `max_clients` keeps those with most rows, ties by id. `heldout` is a fraction of each client's rows, or
    "upstream": the rows of the upstream test and validation splits. `unseen_clients` users who were not kept
    become the unseen part, those with most rows first. Without languages, all are kept.
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

    def __post_init__(self) -> None:
        at_least = {"min_samples": 1, "max_samples": 1, "max_clients": 1, "unseen_clients": 0}
        at_least |= {"max_prompt_characters": 1, "max_completion_characters": 1}
        for name, least in at_least.items():
            value = vars(self)[name]
            if value is not None and value < least:
                raise UserError(f"{name}={value} in the recipe; it must be at least {least}")
        if self.heldout != "upstream" and not (isinstance(self.heldout, int | float) and 0 <= self.heldout < 1):
            raise UserError(f"heldout={self.heldout!r} in the recipe; it must be in [0, 1) or 'upstream'")

    def normal(self) -> Recipe:
        """The recipe in the one form that is written; heldout=0 trains on everything and has no unseen."""
        heldout = self.heldout if self.heldout == "upstream" else float(self.heldout)
        unseen = 0 if heldout == 0 else self.unseen_clients
        return replace(self, languages=tuple(sorted(set(self.languages))), heldout=heldout, unseen_clients=unseen)


class Filter(NamedTuple):
    """A step that looks at one row alone."""

    step: str
    reason: str
    passes: Callable[[Sample], bool]


def filters(recipe: Recipe) -> tuple[Filter, ...]:
    """The row filters in order. The first one guards the user id: only what passes it has a user at all."""
    languages = frozenset(recipe.languages)
    return (
        Filter("user_id", f"user id blank, longer than {MAX_ID_CHARACTERS} characters or broken text", _has_user),
        Filter("empty", "prompt or completion empty or broken text", _has_text),
        Filter(
            "languages",
            f"language not in {', '.join(recipe.languages) or 'all'}",
            lambda sample: not languages or sample.language in languages,
        ),
        Filter("length", _bounds_in_words(recipe), lambda sample: _has_length(sample, recipe)),
    )


def _has_user(sample: Sample) -> bool:
    return len(sample.client) <= MAX_ID_CHARACTERS and bool(sample.client.strip()) and _is_unicode(sample.client)


def _has_text(sample: Sample) -> bool:
    texts = (sample.prompt, sample.completion)
    return all(text.strip() for text in texts) and all(map(_is_unicode, (*texts, sample.language, sample.source)))


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_length(sample: Sample, recipe: Recipe) -> bool:
    prompt_ok = _within(sample.prompt, recipe.min_prompt_characters, recipe.max_prompt_characters)
    return prompt_ok and _within(sample.completion, recipe.min_completion_characters, recipe.max_completion_characters)


def _within(text: str, least: int, most: int | None) -> bool:
    return least <= len(text) and (most is None or len(text) <= most)


def _bounds_in_words(recipe: Recipe) -> str:
    prompt = f"{recipe.min_prompt_characters} to {recipe.max_prompt_characters or 'any number'}"
    completion = f"{recipe.min_completion_characters} to {recipe.max_completion_characters or 'any number'}"
    return f"characters not within {prompt} (prompt) and {completion} (completion)"
